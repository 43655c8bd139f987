"""Which patient is trained on, which chooses the checkpoint, which is only ever tested on.

The split is a file (`manifest.csv`): written once, with the SHA-256 of every photograph, and obeyed afterwards.
"""

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from fovea.errors import TrainingError
from training import duplicates
from training.datasets import Sample, content

Split = Literal["train", "validation", "test"]
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.10
COLUMNS = ("sha256", "split", "dataset", "patient", "label", "file")


@dataclass(frozen=True)
class Entry:
    """One photograph of the manifest."""

    sample: Sample
    sha256: str
    split: Split


def assign(
    samples: Iterable[Sample],
    seed: int,
    shares: tuple[float, float] = (TEST_SHARE, VALIDATION_SHARE),
    near_duplicates: bool = False,
    by: Literal["patient", "image"] = "patient",
) -> list[Entry]:
    """Split by patient, stratified by (data set, label); patients who share a byte-identical photograph count as one.

    The draw is a hash of seed and patient, so it does not depend on the order of the photographs. `shares` are those
    of test and validation. With `near_duplicates`, patients whose pictures look alike count as one too. `by` "image"
    takes every picture for a patient's only one: figures are then optimistic, as one patient's pictures resemble each
    other.
    """
    originals = list(samples)
    samples = originals
    if by == "image":
        samples = [replace(each, patient=f"{each.patient}/{each.path.stem}") for each in originals]
    hashed = [(sample, hashlib.sha256(content(sample.path)).hexdigest()) for sample in samples]
    _refuse_contradictions(hashed)
    alike = duplicates.pairs([sample.path for sample, _ in hashed]) if near_duplicates and hashed else []
    owner = _owners(hashed, alike)
    strata: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sample, _ in hashed:
        strata[sample.dataset, sample.label or ""].add(owner[sample.patient])
    split_of: dict[str, Split] = {}
    for _, patients in sorted(strata.items()):
        drawn = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest())
        tested = round(shares[0] * len(drawn))
        validated = max(round(shares[1] * len(drawn)), 1 if len(drawn) >= 5 else 0)
        for rank, patient in enumerate(drawn):
            split: Split = "test" if rank < tested else "validation" if rank < tested + validated else "train"
            split_of.setdefault(patient, split)
    seen: set[str] = set()
    entries = []
    for original, (sample, digest) in zip(originals, hashed, strict=True):
        if digest not in seen:
            seen.add(digest)
            entries.append(Entry(original, digest, split_of[owner[sample.patient]]))
    return entries


def _refuse_contradictions(hashed: Sequence[tuple[Sample, str]]) -> None:
    first: dict[str, Sample] = {}
    for sample, digest in hashed:
        other = first.setdefault(digest, sample)
        if sample.label is not None and other.label not in (None, sample.label):
            raise TrainingError(
                f"{other.path} ({other.label}) and {sample.path} ({sample.label}) are the same picture: decide for one "
                "label and delete the other."
            )


def _owners(hashed: Sequence[tuple[Sample, str]], alike: Sequence[tuple[int, int]] = ()) -> dict[str, str]:
    """Patient → the one, first in the alphabet, who stands for all that equal or like photographs tie together."""
    owner = {sample.patient: sample.patient for sample, _ in hashed}

    def standing_for(patient: str) -> str:
        while owner[patient] != patient:
            patient = owner[patient]
        return patient

    first: dict[str, str] = {}
    for sample, digest in hashed:
        one, other = sorted((standing_for(sample.patient), standing_for(first.setdefault(digest, sample.patient))))
        owner[other] = one
    for places in alike:
        one, other = sorted(standing_for(hashed[place][0].patient) for place in places)
        owner[other] = one
    return {patient: standing_for(patient) for patient in owner}


def write(entries: Iterable[Entry], root: Path, path: Path) -> str:
    """Write the manifest (files relative to `root`), whole or not at all, and return its SHA-256.

    Raises:
        TrainingError: no room, or no permission.
    """
    lines = io.StringIO(newline="")
    table = csv.writer(lines)
    table.writerow(COLUMNS)
    for entry in entries:
        sample = entry.sample
        file = Path(os.path.relpath(sample.path, root)).as_posix()
        table.writerow((entry.sha256, entry.split, sample.dataset, sample.patient, sample.label or "", file))
    content = lines.getvalue().encode()
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise TrainingError(
            f"{path} could not be written ({error.strerror}): free some room, or choose another folder with --out."
        ) from None
    return hashlib.sha256(content).hexdigest()


def knows(samples: Iterable[Sample], path: Path) -> bool:
    """Whether a manifest lists any of these photographs, by their SHA-256."""
    known = set(_read(path))
    return any(hashlib.sha256(content(sample.path)).hexdigest() in known for sample in samples)


def obey(samples: Iterable[Sample], path: Path) -> tuple[list[Entry], str]:
    """The entries of `samples` as an earlier manifest split them, known by SHA-256, and the manifest's own SHA-256.

    Raises:
        TrainingError: photographs that are not in the manifest, or none that are, or no manifest.
    """
    known = _read(path)
    entries, strangers = [], []
    for sample in samples:
        digest = hashlib.sha256(content(sample.path)).hexdigest()
        if digest in known:
            split = known[digest]
            if split:  # the first of byte-identical photographs stands for them all
                entries.append(Entry(sample, digest, split))
                known[digest] = None
        else:
            strangers.append(sample.path)
    if strangers:
        raise TrainingError(
            f"{path} does not list {len(strangers)} of the photographs, such as {strangers[0]}: delete it to draw a "
            "new split (and train anew), or keep them in another folder."
        )
    if not entries:
        raise TrainingError(f"{path} lists none of the photographs found: give the folder it was made from.")
    return entries, hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> dict[str, Split | None]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            known = {row["sha256"]: cast(Split, row["split"]) for row in csv.DictReader(lines)}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise TrainingError(f"{path} is no manifest ({error}): delete it to draw a new split.") from None
    if not set(known.values()) <= set(get_args(Split)):
        raise TrainingError(f"{path} is damaged (a row names no split): restore it, or delete it to draw a new split.")
    return dict(known)
