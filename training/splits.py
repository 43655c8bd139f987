"""Which patient is trained on, which chooses the checkpoint, which is only ever tested on.

The split is a file (`manifest.csv`): written once, with the SHA-256 of every photograph, and obeyed afterwards.
"""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from fovea.errors import TrainingError
from training.datasets import Sample

Split = Literal["train", "validation", "test"]
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.10
COLUMNS = ("sha256", "split", "dataset", "patient", "label", "file")


@dataclass(frozen=True)
class Entry:
    """One photograph of the manifest."""

    sample: Sample
    sha256: str
    split: Split


def assign(samples: Iterable[Sample], seed: int) -> list[Entry]:
    """Split by patient, stratified by (data set, label); patients who share a byte-identical photograph count as one.

    The draw is a hash of seed and patient, so it does not depend on the order of the photographs.
    """
    hashed = [(sample, hashlib.sha256(sample.path.read_bytes()).hexdigest()) for sample in samples]
    owner = _owners(hashed)
    strata: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sample, _ in hashed:
        strata[sample.dataset, sample.label or ""].add(owner[sample.patient])
    split_of: dict[str, Split] = {}
    for _, patients in sorted(strata.items()):
        drawn = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest())
        tested = round(TEST_SHARE * len(drawn))
        validated = max(round(VALIDATION_SHARE * len(drawn)), 1 if len(drawn) >= 5 else 0)
        for rank, patient in enumerate(drawn):
            split: Split = "test" if rank < tested else "validation" if rank < tested + validated else "train"
            split_of.setdefault(patient, split)
    seen: set[str] = set()
    entries = []
    for sample, digest in hashed:
        if digest not in seen:
            seen.add(digest)
            entries.append(Entry(sample, digest, split_of[owner[sample.patient]]))
    return entries


def _owners(hashed: Sequence[tuple[Sample, str]]) -> dict[str, str]:
    """Patient → the one, first in the alphabet, who stands for all that byte-identical photographs tie together."""
    owner = {sample.patient: sample.patient for sample, _ in hashed}

    def standing_for(patient: str) -> str:
        while owner[patient] != patient:
            patient = owner[patient]
        return patient

    first: dict[str, str] = {}
    for sample, digest in hashed:
        one, other = sorted((standing_for(sample.patient), standing_for(first.setdefault(digest, sample.patient))))
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
        file = sample.path.relative_to(root).as_posix()
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
    return any(hashlib.sha256(sample.path.read_bytes()).hexdigest() in known for sample in samples)


def obey(samples: Iterable[Sample], path: Path) -> tuple[list[Entry], str]:
    """The entries of `samples` as an earlier manifest split them, known by SHA-256, and the manifest's own SHA-256.

    Raises:
        TrainingError: photographs that are not in the manifest, or none that are, or no manifest.
    """
    known = _read(path)
    entries, strangers = [], []
    for sample in samples:
        digest = hashlib.sha256(sample.path.read_bytes()).hexdigest()
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
