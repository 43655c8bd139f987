"""What the networks saw, drawn on the original photograph."""

from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fovea import pixels
from fovea.answers import Answer, to_source
from fovea.errors import UsageError
from fovea.spec import THRESHOLD

LONGEST = 1600
"""Larger photographs are drawn at this many pixels on their longer side."""
CYAN, WHITE = (0, 230, 255), (255, 255, 255)


def draw(encoded: bytes, answer: Answer) -> pixels.Picture:
    """The photograph with masks outlined in cyan, the heat map from dark to yellow, and the answer below it.

    The heat map is left out where an operating point decided against the class that it explains.

    Returns:
        uint8 `[height, width, 3]` RGB, at most `LONGEST` pixels on the longer side, a caption added below.
    """
    decoded = pixels.decode(encoded)
    scale = min(1.0, LONGEST / max(decoded.source_width, decoded.source_height))
    width, height = (max(1, round(side * scale)) for side in decoded[1:])
    drawn = cv2.resize(decoded.picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    if answer.frame is not None:
        frame = pixels.Frame(*(round(edge * scale) for edge in answer.frame))
        if answer.heatmap is not None and (answer.explained or answer.label is None):
            drawn = _tint(drawn, to_source(answer.heatmap, frame, width, height))
        for mask in answer.masks.values():
            inside = (to_source(mask, frame, width, height) >= THRESHOLD).astype(np.uint8)
            outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(drawn, outlines, -1, CYAN, max(1, round(width / 1000)), cv2.LINE_AA)
    return _caption(drawn, answer)


def save(path: Path, picture: pixels.Picture) -> None:
    """Write a PNG, whole or not at all, or raise `UsageError` with the reason."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UsageError(f"{path} cannot be written ({error.strerror}): choose another folder.") from None


def _tint(picture: pixels.Picture, heat: npt.NDArray[np.float32]) -> pixels.Picture:
    """Blend in the heat map, normalised to its own maximum; where there is no heat the photograph is untouched."""
    if heat.max() <= 0:
        return picture
    level = heat / heat.max()
    colours = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = 0.55 * level[..., None]
    return np.asarray(picture * (1 - weight) + colours * weight).astype(np.uint8)


def _caption(picture: pixels.Picture, answer: Answer) -> pixels.Picture:
    text = answer.task.name if answer.label is None else f"{answer.label}  {answer.probability:.2f}"
    if answer.operating_point is not None:
        text += f"  ({answer.operating_point[0]})"
    size = max(picture.shape[1] / 1000, 0.4)
    bar = np.zeros((round(44 * size), picture.shape[1], 3), np.uint8)
    baseline = round(30 * size)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(bar, text, (round(12 * size), baseline), font, size, WHITE, max(1, round(1.6 * size)), cv2.LINE_AA)
    note = "research use"
    (note_width, _), _ = cv2.getTextSize(note, font, 0.7 * size, 1)
    left = picture.shape[1] - note_width - round(12 * size)
    cv2.putText(bar, note, (left, baseline), font, 0.7 * size, (150, 150, 150), 1, cv2.LINE_AA)
    return np.vstack([picture, bar])
