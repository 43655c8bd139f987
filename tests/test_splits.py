"""The split by patient: who is trained on, who is tested, and the manifest that keeps it so."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from test_datasets import picture, read

from fovea.errors import TrainingError
from fovea.tasks import FUNDUS_LABELS
from training import splits
from training.datasets import Sample
from training.splits import Entry


def people(root: Path, number: int, dataset: str = "set") -> list[Sample]:
    """Two photographs each of `number` patients with two labels."""
    return [
        Sample(picture(root / f"{dataset}{n}_{eye}.png"), dataset, f"{dataset}/{n}", ("A", "B")[n % 2])
        for n in range(number)
        for eye in ("left", "right")
    ]


def split_of(entries: Iterable[Entry]) -> dict[str, str]:
    return {entry.sample.path.name: entry.split for entry in entries}


def straddling(entries: Iterable[Entry]) -> set[str]:
    """Patients in more than one split."""
    where = defaultdict(set)
    for entry in entries:
        where[entry.sample.patient].add(entry.split)
    return {patient for patient, found in where.items() if len(found) > 1}


def test_both_eyes_of_a_patient_fall_into_one_split(tmp_path: Path) -> None:
    entries = splits.assign(people(tmp_path, 40), seed=7)
    assert not straddling(entries)
    assert Counter(entry.split for entry in entries) == {"test": 20, "validation": 8, "train": 52}


def test_a_patient_with_two_labels_falls_into_one_split(tmp_path: Path) -> None:
    samples = people(tmp_path, 40)
    mixed = [Sample(s.path, s.dataset, s.patient, ("A", "B")[n % 2]) for n, s in enumerate(samples)]
    assert not straddling(splits.assign(mixed, seed=7))


def test_the_split_does_not_depend_on_the_order_of_the_photographs(tmp_path: Path) -> None:
    samples = people(tmp_path, 30)
    mixed = [Sample(s.path, s.dataset, s.patient, ("A", "B", None)[n % 3]) for n, s in enumerate(samples)]
    shuffled = [mixed[n] for n in np.random.default_rng(3).permutation(len(mixed))]
    assert split_of(splits.assign(mixed, 7)) == split_of(splits.assign(shuffled, 7))


def test_another_seed_draws_another_split(tmp_path: Path) -> None:
    samples = people(tmp_path, 40)
    assert split_of(splits.assign(samples, 7)) == split_of(splits.assign(samples, 7))
    assert split_of(splits.assign(samples, 7)) != split_of(splits.assign(samples, 8))


def test_byte_identical_photographs_are_used_once_and_tie_their_patients_together(tmp_path: Path) -> None:
    """Photograph 0 occurs under every patient's name: whatever else they have belongs to one split."""
    samples = people(tmp_path, 30)
    content = samples[0].path.read_bytes()
    samples = [replace(sample, label="A") if n < 12 else sample for n, sample in enumerate(samples)]
    for sample in samples[2:12:2]:
        sample.path.write_bytes(content)
    for order in (samples, samples[::-1]):
        entries = splits.assign(order, seed=7)
        assert len(entries) == len(samples) - 5
        assert len({entry.sha256 for entry in entries}) == len(entries)
        tied = {entry.split for entry in entries if entry.sample.patient in {f"set/{n}" for n in range(6)}}
        assert len(tied) == 1
        assert not straddling(entries)


def test_the_split_of_duplicates_does_not_depend_on_their_order(tmp_path: Path) -> None:
    samples = people(tmp_path, 30)
    for one, other in ((0, 20), (9, 40), (41, 52)):
        samples[other].path.write_bytes(samples[one].path.read_bytes())
    by_hash = [{entry.sha256: entry.split for entry in splits.assign(order, 7)} for order in (samples, samples[::-1])]
    assert by_hash[0] == by_hash[1]


def test_every_set_and_class_of_five_patients_has_one_in_each_split(tmp_path: Path) -> None:
    entries = splits.assign(people(tmp_path, 10, "small") + people(tmp_path, 40, "large"), seed=7)
    found = {(e.sample.dataset, e.sample.label, e.split) for e in entries}
    assert len(found) == 2 * 2 * 3


def test_the_manifest_gives_back_the_split_it_was_written_with(tmp_path: Path) -> None:
    entries = splits.assign(people(tmp_path / "data", 12), seed=7)
    digest = splits.write(entries, tmp_path / "data", tmp_path / "out" / "manifest.csv")
    samples = [entry.sample for entry in entries]
    obeyed, same = splits.obey(samples, tmp_path / "out" / "manifest.csv")
    assert obeyed == entries
    assert same == digest
    assert splits.obey(samples[::-1], tmp_path / "out" / "manifest.csv")[0] == entries[::-1]


def test_a_photograph_is_known_by_its_bytes_wherever_it_has_moved(tmp_path: Path) -> None:
    entries = splits.assign(people(tmp_path / "data", 12), seed=7)
    splits.write(entries, tmp_path / "data", tmp_path / "manifest.csv")
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = [Sample(tmp_path / "moved" / e.sample.path.name, "other", "p") for e in entries]
    obeyed, _ = splits.obey(moved, tmp_path / "manifest.csv")
    assert [entry.split for entry in obeyed] == [entry.split for entry in entries]
    assert splits.knows(moved[:1], tmp_path / "manifest.csv")


def test_a_duplicate_that_the_manifest_lists_once_is_used_once(tmp_path: Path) -> None:
    samples = people(tmp_path, 12)
    samples[5].path.write_bytes(samples[0].path.read_bytes())
    entries = splits.assign(samples, seed=7)
    splits.write(entries, tmp_path, tmp_path / "manifest.csv")
    assert splits.obey(samples, tmp_path / "manifest.csv")[0] == entries


def test_strangers_are_refused_and_never_slip_into_a_split(tmp_path: Path) -> None:
    samples = people(tmp_path, 12)
    splits.write(splits.assign(samples[:-3], seed=7), tmp_path, tmp_path / "manifest.csv")
    with pytest.raises(TrainingError, match=f"does not list 3 of the photographs, such as .*{samples[-3].path.name}"):
        splits.obey(samples, tmp_path / "manifest.csv")
    assert not splits.knows(samples[-3:], tmp_path / "manifest.csv")


def test_a_manifest_of_other_photographs_is_refused(tmp_path: Path) -> None:
    splits.write(splits.assign(people(tmp_path, 6), 7), tmp_path, tmp_path / "manifest.csv")
    with pytest.raises(TrainingError, match="none of the photographs"):
        splits.obey([], tmp_path / "manifest.csv")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut in a row": lambda content: content[: content.index(b"validation") + 3],
    "another split's name": lambda content: content.replace(b"validation", b"holdout"),
    "no header": lambda content: content.split(b"\n", 1)[1],
    "noise": lambda content: b"\xff\x00\x80" * 100,
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_manifest_is_refused_and_left_as_it_is(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    samples, manifest = people(tmp_path, 12), tmp_path / "manifest.csv"
    splits.write(splits.assign(samples, 7), tmp_path, manifest)
    harmed = damage(manifest.read_bytes())
    manifest.write_bytes(harmed)
    with pytest.raises(TrainingError, match=r"manifest\.csv") as caught:
        splits.obey(samples, manifest)
    assert "\n" not in str(caught.value)
    assert manifest.read_bytes() == harmed


def test_a_manifest_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="manifest"):
        splits.write([], tmp_path, tmp_path / "file" / "manifest.csv")


@pytest.mark.data
def test_the_splits_of_the_real_folder_are_disjoint_by_patient_and_by_bytes(data: Path) -> None:
    samples = read(data)
    entries = splits.assign(samples, seed=7)
    assert not straddling(entries)
    assert len({entry.sha256 for entry in entries}) == len(entries)
    assert {entry.sha256 for entry in entries} == {sha256(s.path.read_bytes()).hexdigest() for s in samples}
    assert {(e.sample.label, e.split) for e in entries} >= {
        (label, split) for label in FUNDUS_LABELS for split in ("train", "validation", "test")
    }
