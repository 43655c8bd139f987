"""The documents of a picture store: what they say, and how much of that can be trusted.

Documents come from anywhere: nothing in one becomes a folder, a file or training data before it is checked. What takes
a single document either returns all of what it was asked for or raises a `TrainingError` about that document.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

from fovea.errors import TrainingError
from training.datasets import MASK_FOLDERS

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Fields:
    """Where documents keep what: the first field that is there counts, in the document or in its `metadata`.

    A value of `image` is the bytes themselves, their base64 text (a `data:` URL too) or the id of a GridFS file; a
    value of `file` is always such an id. `outer.inner` names a field inside another one.
    """

    image: tuple[str, ...] = ("image.data", "img.data", "image", "img", "data", "image_data", "image_base64")
    file: tuple[str, ...] = ("image_id", "file_id", "gridfs_id")
    label: tuple[str, ...] = ("label", "class", "diagnosis", "category")
    name: tuple[str, ...] = ("name", "filename", "file_name")
    patient: tuple[str, ...] = ("patient.id", "patient", "patient_id")
    sha256: tuple[str, ...] = ("sha256",)


LONGEST_NAME, LONGEST_PATIENT = 255, 64
"""In bytes, what the usual file systems allow; and in characters, what is kept of a patient's id."""


@dataclass(frozen=True)
class Description:
    """What a document says of its picture: label and name can stand in a path, `sha256` is a claim until checked."""

    label: str
    name: str | None
    patient: str | None
    sha256: str | None


def look_up(document: Document, names: Sequence[str]) -> Any:
    """The value of the first of these fields that the document, or its `metadata`, has; None if there is none."""
    for name in names:
        for value in (document, document.get("metadata")):
            for step in name.split("."):
                value = value.get(step) if isinstance(value, Mapping) else None
            if value is not None:
                return value
    return None


def fits_in_a_path(name: str) -> bool:
    """Whether `name` can be one folder or file below another: visible, printable, not too long, no separators."""
    plain = name.isprintable() and name.strip() and not name.startswith(".") and not set(name) & set("/\\")
    return bool(plain) and len(name.encode()) <= LONGEST_NAME


def checked_label(value: object) -> str:
    """A label as the name of a folder, whole numbers as text; a `TrainingError` if it is none or leads elsewhere."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        value = str(int(value))
    if not isinstance(value, str) or not fits_in_a_path(value) or value in MASK_FOLDERS:
        raise TrainingError(f"Its label {short(value)} cannot be the name of a class: rename it.")
    return value


def describe(document: Document, fields: Fields) -> Description:
    """Label, name, patient and claimed SHA-256 of a document, without its picture.

    Raises:
        TrainingError: it has no label, or one that cannot be the name of a folder.
    """
    label, name, patient, digest = (
        look_up(document, names) for names in (fields.label, fields.name, fields.patient, fields.sha256)
    )
    if isinstance(digest, str) and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise TrainingError(f"Its SHA-256 {short(digest)} is not 64 hexadecimal digits: import its picture again.")
    if label is None:
        raise TrainingError(f"It has no label ({', '.join(fields.label)}): add one, or name it with --label-field.")
    if isinstance(patient, Mapping | list):
        raise TrainingError("Its patient is no single value, so it cannot be kept in one split: write patient.id.")
    name = PureWindowsPath(name).name if isinstance(name, str) else ""  # knows both separators
    name = name if fits_in_a_path(name) else ""
    before, separator, _ = name.partition("__")
    if patient is not None and not name.startswith(f"{patient}__"):
        # Two patients whose ids become one here are only kept together, which does no harm.
        before, separator = re.sub(r"\W+|__+", "-", str(patient)).strip("-_"), "__"
    return Description(
        checked_label(label),
        name=name or None,
        patient=before[:LONGEST_PATIENT] if separator and before else None,
        sha256=digest.lower() if isinstance(digest, str) else None,
    )


def picture_bytes(document: Document, fields: Fields, download: Callable[[Any], bytes]) -> bytes:
    """The encoded picture a document holds, or names in GridFS, as the file it once was; not yet checked.

    Raises:
        TrainingError: there is none, or it is text that is not base64.
    """
    value = look_up(document, fields.image)
    if value is None or isinstance(value, Mapping | list):
        file = look_up(document, fields.file)
        if file is None:
            names = ", ".join(fields.image + fields.file)
            raise TrainingError(f"It has no picture ({names}): name its field with --image-field.")
        return download(file)
    if isinstance(value, bytes):
        return bytes(value)
    if not isinstance(value, str):
        return download(value)
    head, comma, rest = value.partition(",")
    text = rest if comma and head.startswith("data:") and head.endswith(";base64") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise TrainingError(f"Its picture is text, but no base64 ({error}): write it again.") from None


def short(value: object) -> str:
    """An untrusted value for a message: printable, at most 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
