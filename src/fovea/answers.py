"""A task's answer to one picture: from the network's tensors to labels, shares, JSON and the source's own pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fovea import pixels
from fovea.pixels import Frame
from fovea.spec import THRESHOLD, Task


@dataclass(frozen=True)
class Answer:
    """What was asked for and answered; the rest is None or missing.

    Attributes:
        probabilities: float32 `[len(task.labels)]`, in 0…1.
        heatmap: float32 `[side, side]`, ≥ 0: what spoke for the top class, not normalised.
        masks: name → uint8 `[side, side]`, 255 · probability; inside where ≥ `spec.THRESHOLD`.
        frame: the square of the source picture that `heatmap` and `masks` show.
        latency_ms: from sending the request to having the answer, as the client saw it.
        operating_point: the name of a threshold stored with the model, if one was asked for, and that threshold.
        version: of the model that answered, all of it: the number of its release, or 1 where none was published.
    """

    task: Task
    probabilities: npt.NDArray[np.float32] | None = None
    heatmap: npt.NDArray[np.float32] | None = None
    masks: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    frame: Frame | None = None
    latency_ms: float = 0.0
    operating_point: tuple[str, float] | None = None
    version: str = "1"

    @property
    def release(self) -> str | None:
        """The number of the release that answered; None where the server serves a repository that is no release."""
        return None if self.version == "1" else self.version

    @property
    def label(self) -> str | None:
        """The class with the largest probability; the first of equals.

        At an operating point: the healthy class if `score` is below the threshold, else the most probable other one.
        """
        if self.probabilities is None:
            return None
        place = int(self.probabilities.argmax())
        if self.operating_point is not None and self.score is not None:
            assert self.task.classes is not None
            healthy = self.task.labels.index(self.task.classes.healthy)
            found = self.score >= self.operating_point[1]
            others = np.where(np.arange(len(self.task.labels)) == healthy, -1, self.probabilities)
            place = int(others.argmax()) if found else healthy
        return self.task.labels[place]

    @property
    def probability(self) -> float | None:
        """Of `label`."""
        label = self.label
        if self.probabilities is None or label is None:
            return None
        return float(self.probabilities[self.task.labels.index(label)])

    @property
    def explained(self) -> bool:
        """Whether the heat map is about `label`: it explains the most probable class, whatever a threshold decides."""
        return self.probabilities is not None and self.label == self.task.labels[int(self.probabilities.argmax())]

    @property
    def score(self) -> float | None:
        """1 − P(healthy): what operating points cut."""
        if self.probabilities is None or self.task.classes is None:
            return None
        return 1 - float(self.probabilities[self.task.labels.index(self.task.classes.healthy)])

    def json(self) -> dict[str, Any]:
        """Label, probabilities and frame as plain values; pictures are left to the caller."""
        value: dict[str, Any] = {"task": self.task.name}
        if self.release is not None:
            value["release"] = self.release
        if self.probabilities is not None:
            named = zip(self.task.labels, self.probabilities.tolist(), strict=True)
            value |= {"label": self.label, "probability": self.probability, "probabilities": dict(named)}
        if self.operating_point is not None:
            name, threshold = self.operating_point
            value |= {"operating_point": name, "threshold": threshold, "score": self.score}
        if self.frame is not None:
            value["frame"] = self.frame._asdict()
        return value


def from_outputs(
    task: Task,
    outputs: Mapping[str, "np.ndarray[Any, Any]"],
    row: int = 0,
    latency_ms: float = 0.0,
    operating_point: tuple[str, float] | None = None,
    version: str = "1",
) -> Answer:
    """One row of a response: output name → array with the batch first."""
    names = {mask.name for mask in task.masks}
    return Answer(
        task,
        probabilities=outputs["probabilities"][row] if "probabilities" in outputs else None,
        heatmap=outputs["heatmap"][row] if "heatmap" in outputs else None,
        masks={name: array[row, ..., 0] for name, array in outputs.items() if name in names},
        frame=Frame(*outputs["frame"][row].tolist()) if "frame" in outputs else None,
        latency_ms=latency_ms,
        operating_point=operating_point,
        version=version,
    )


def share(mask: npt.NDArray[np.uint8], encoded: bytes, task: Task) -> float:
    """The share (0…1) of the field of view that is inside `mask`, as the picture `encoded` was preprocessed."""
    picture, _ = pixels.preprocess(encoded, task.image)
    lit = cv2.resize(pixels.lit_disc(picture), mask.shape[::-1], interpolation=cv2.INTER_NEAREST) == 1
    return float((mask[lit] >= THRESHOLD).mean())


def to_source(plane: "np.ndarray[Any, Any]", frame: Frame, width: int, height: int) -> npt.NDArray[np.float32]:
    """Resize a mask or heat map `[side, side]` to its frame and cut it to the source: float32 `[height, width]`.

    Bilinear, its outermost values reaching to the frame's edge; zero where the frame does not reach.
    """
    scale = np.float64(frame.width) / plane.shape[1]
    # Pixel centres: source = (plane + 0.5) · scale − 0.5 + offset.
    matrix = np.array(
        [[scale, 0, frame.left + 0.5 * scale - 0.5], [0, scale, frame.top + 0.5 * scale - 0.5]], np.float64
    )
    size = width, height
    spread = cv2.warpAffine(plane.astype(np.float32), matrix, size, None, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    rows = slice(max(frame.top, 0), max(frame.top + frame.height, 0))
    columns = slice(max(frame.left, 0), max(frame.left + frame.width, 0))
    laid = np.zeros((height, width), np.float32)
    laid[rows, columns] = spread[rows, columns]
    return laid
