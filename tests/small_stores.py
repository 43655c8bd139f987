"""What the tests of picture stores share: a labelled folder of small pictures, and what the command line says."""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

SECRET = "s3cr3t/p@ss"
ESCAPED = "s3cr3t%2Fp%40ss"

Result = tuple[int, str, str]
Command = Callable[..., Result]


def encoded(number: int, kind: str = "PNG", side: int = 40) -> bytes:
    """A picture file unlike every other of another number."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    buffer = BytesIO()
    Pillow.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def labelled(root: Path, count: int = 6) -> Path:
    """`count` pictures of two labels, two of each patient."""
    for number in range(count):
        path = root / ("Normal", "Glaucoma")[number % 2] / f"p{number // 4}__{number}.{('png', 'jpg')[number % 3 > 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "PNG" if path.suffix == ".png" else "JPEG"))
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def sentence(text: str, start: str = "") -> str:
    """The only line of `text` that is no progress bar."""
    (line,) = [line for line in text.splitlines() if line.strip() and not re.search(r"\d left ", line)]
    assert line.endswith("."), line
    assert line.startswith(start), line
    return line
