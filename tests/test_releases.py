"""Releases on disk: what one is, that it stays what it is, and that one after the other is published."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from conftest import REPOSITORY
from small_releases import Command, cut, everything, line, overwrite, publish, repository

from export import release
from fovea import locks, releases
from fovea.errors import ReleaseError
from fovea.repository import graph_path
from fovea.tasks import TASKS

FUNDUS, RETINA = TASKS["fundus"], TASKS["retina"]
GRAPH = graph_path(Path(), FUNDUS.networks[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "releases"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return repository(tmp_path / "repository", FUNDUS, 1)


def test_the_same_content_is_one_release_published_once(export: Command, folder: Path, source: Path) -> None:
    first = publish(export, folder, source)
    before = everything(folder)
    assert publish(export, folder, source) == first
    assert publish(export, folder, Path(shutil.copytree(source, source.with_name("copy")))) == first
    assert everything(folder) == before
    assert line(folder, FUNDUS) == [first]


@pytest.mark.parametrize(
    "path",
    [
        GRAPH.as_posix(),
        "fundus/config.pbtxt",
        "fundus_preprocess/1/model.py",
        "fundus_classifier/config.pbtxt",
        "fundus_classifier/configs/gpu.pbtxt",
        "fundus_classifier/labels.txt",
        "fundus_classifier/card.md",
        "fundus_classifier/1/model.int8.onnx",
        "fundus_classifier/configs/tensorrt.pbtxt",
    ],
)
def test_another_content_of_any_file_is_another_release(path: str, export: Command, folder: Path, source: Path) -> None:
    first = publish(export, folder, source)
    changed = source / path
    if changed.suffix == ".pbtxt":
        parameter = 'parameters { key: "note" value { string_value: "another" } }\n'
        changed.write_text((changed.read_text() if changed.exists() else 'name: "fundus_classifier"\n') + parameter)
    elif changed.suffix == ".onnx":
        model = onnx.load(changed if changed.exists() else changed.with_name("model.onnx"))
        model.doc_string = "another"
        onnx.save(model, changed)
    elif changed.name == "labels.txt":
        changed.write_text(changed.read_text().replace("Normal", "Healthy"))
    else:
        changed.write_bytes((changed.read_bytes() if changed.exists() else b"") + b"\n")
    second = publish(export, folder, source)
    assert second != first
    assert line(folder, FUNDUS) == [first, second]
    shared = {*releases.read(folder, "fundus", first).steps} & {*releases.read(folder, "fundus", second).steps}
    assert len(shared) == (2 if path.startswith("fundus/") else 1)


def test_another_preprocessing_is_another_release(
    export: Command, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(export, folder, source)
    monkeypatch.setattr(release, "preprocessing", lambda _: "0" * 64)
    assert publish(export, folder, source) != first


def test_what_is_served_is_copied_whole_and_what_git_would_not_keep_is_not(
    export: Command, folder: Path, source: Path
) -> None:
    (source / "fundus_classifier" / "1" / "__pycache__").mkdir()
    (source / "fundus_classifier" / "1" / "__pycache__" / "model.pyc").write_bytes(b"cache")
    (source / "fundus_classifier" / ".hidden").write_bytes(b"hidden")
    made = releases.verify(folder, "fundus", publish(export, folder, source))
    copied = {(model.rsplit("-", 1)[0], name) for model, table in made.models.items() for name in table}
    expected = {path.relative_to(source).parts for path in source.rglob("*") if path.is_file()}
    assert copied == {
        (model, "/".join(inner))
        for model, *inner in expected
        if not any(part.startswith((".", "__pycache__")) for part in inner)
    }


def test_releases_of_two_tasks_stand_side_by_side(export: Command, folder: Path) -> None:
    numbers = {task.name: publish(export, folder, REPOSITORY, task) for task in (RETINA, FUNDUS)}
    assert releases.published(folder) == ["fundus", "retina"]
    for name, number in numbers.items():
        releases.verify(folder, name, number)


def test_rolling_back_goes_back_one_by_one_and_then_says_that_there_is_nothing(
    export: Command, folder: Path, tmp_path: Path
) -> None:
    made = [publish(export, folder, repository(tmp_path / "r", FUNDUS, value)) for value in (1, 2, 3)]
    for expected in (made[1], made[0]):
        code, out, _ = export("rollback", "fundus", "--releases", folder)
        assert (code, releases.current(folder, "fundus")) == (0, expected)
        assert f"release {expected}" in out
    before = everything(folder)
    code, _, err = export("rollback", "fundus", "--releases", folder)
    assert (code, err) == (
        1,
        f"No release of fundus was published in {folder} before the current one: nothing was done.\n",
    )
    assert everything(folder) == before


def test_publishing_after_a_rollback_goes_on_from_there(export: Command, folder: Path, tmp_path: Path) -> None:
    made = [publish(export, folder, repository(tmp_path / "r", FUNDUS, value)) for value in (1, 2, 3)]
    for _ in range(2):
        assert export("rollback", "fundus", "--releases", folder)[0] == 0
    assert releases.kept(folder, "fundus") == [made[0], made[1]]  # what was just taken back stays for comparison
    made.append(publish(export, folder, repository(tmp_path / "r", FUNDUS, 4)))
    assert line(folder, FUNDUS) == [made[0], made[3]]
    assert releases.kept(folder, "fundus") == [made[3], made[0]]
    assert publish(export, folder, repository(tmp_path / "r", FUNDUS, 1)) == made[0]
    assert line(folder, FUNDUS) == [made[3], made[0]]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda step, own: cut(step / "1" / "model.onnx"), r"model\.onnx is cut off or was changed"),
        (lambda step, own: (step / "1" / "model.onnx").unlink(), r"model\.onnx is missing"),
        (lambda step, own: shutil.rmtree(step), "is missing"),
        (lambda step, own: (step / "1" / "more.onnx").write_bytes(b""), r"more\.onnx was not there"),
        (lambda step, own: cut(step / "card.json"), r"card\.json is cut off or was changed"),
        (lambda step, own: cut(own / "config.pbtxt"), r"config\.pbtxt is cut off or was changed"),
        (lambda step, own: (own / own.name.split("-")[1]).rmdir(), r"\d is missing"),
        (lambda step, own: (own / "release.json").unlink(), r"release\.json is missing"),
        (lambda step, own: cut(own / "release.json"), r"release\.json is damaged"),
        (lambda step, own: overwrite(own / "release.json", b"[]"), r"release\.json is damaged"),
        (lambda step, own: overwrite(own / "release.json", b"\0" * 1000), r"release\.json is damaged"),
        (lambda step, own: swap_sums(own / "release.json"), r"release\.json was changed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_release_is_refused_by_name_and_another_stays_published(
    damage: "object", named: str, export: Command, folder: Path, tmp_path: Path
) -> None:
    first = publish(export, folder, repository(tmp_path / "r", FUNDUS, 1))
    second = publish(export, folder, repository(tmp_path / "r", FUNDUS, 2))
    assert callable(damage)
    damage(folder / releases.read(folder, "fundus", first).steps[-1], folder / f"fundus-{first}")
    before = everything(folder)
    code, _, err = export("rollback", "fundus", "--releases", folder)
    assert code == 1
    assert err.count("\n") == 1
    with pytest.raises(ReleaseError, match=named) as caught:
        releases.verify(folder, "fundus", first)
    assert err == f"{caught.value}\n"
    assert "python -m export release fundus" in err
    assert everything(folder) == before
    assert releases.current(folder, "fundus") == second


def swap_sums(manifest: Path) -> None:
    """Somebody who changes a file and its sum still cannot have the number."""
    said = json.loads(manifest.read_text())
    said["models"]["fundus"]["config.pbtxt"]["sha256"] = "0" * 64
    overwrite(manifest, json.dumps(said).encode())


def test_releasing_the_same_again_repairs_what_was_damaged(export: Command, folder: Path, source: Path) -> None:
    number = publish(export, folder, source)
    before = everything(folder)
    step = releases.read(folder, "fundus", number).steps[-1]
    cut(folder / step / "1" / "model.onnx")
    cut(folder / f"fundus-{number}" / "config.pbtxt")
    assert publish(export, folder, source) == number
    after = everything(folder)
    manifest = f"fundus-{number}/release.json"  # says when it was made
    assert {**after, manifest: b""} == {**before, manifest: b""}


def test_a_damaged_history_is_named_with_its_cure(export: Command, folder: Path, source: Path) -> None:
    publish(export, folder, source)
    (folder / "fundus.json").write_bytes(b"[{")
    code, _, err = export("rollback", "fundus", "--releases", folder)
    assert code == 1
    assert "fundus.json is damaged: restore it from a copy, or delete it" in err
    (folder / "fundus.json").unlink()
    publish(export, folder, source)


def test_a_model_repository_is_not_taken_for_a_folder_of_releases(export: Command, source: Path) -> None:
    before = everything(source)
    code, _, err = export("release", "fundus", "--releases", source, "--repository", source)
    assert (code, err) == (
        1,
        f"{source} is a model repository, no folder of releases: give another with --releases.\n",
    )
    assert everything(source) == before
    assert not (source / locks.FOLDER).exists()


def test_a_broken_or_missing_source_is_named_and_nothing_is_made(export: Command, folder: Path, source: Path) -> None:
    config = source / "fundus_classifier" / "config.pbtxt"
    config.write_bytes(config.read_bytes()[:-20])
    code, _, err = export("release", "fundus", "--releases", folder, "--repository", source)
    assert code == 1
    assert f"{config}: " in err
    assert "python -m export lint" in err
    code, _, err = export("release", "fundus", "--releases", folder, "--repository", source / "absent")
    assert code == 2
    assert "absent is no folder" in err
    assert not folder.exists()
    assert export("release", "cataract", "--releases", folder)[0] == 2
    assert export("rollback", "fundus", "--releases", folder)[0] == 1
    assert not folder.exists()


def test_list_shows_what_is_published_what_was_and_what_is_damaged(
    export: Command, folder: Path, tmp_path: Path
) -> None:
    code, out, err = export("list", "--releases", folder)
    assert (code, out, "holds no release yet" in err) == (0, "", True)
    made = [publish(export, folder, repository(tmp_path / "r", FUNDUS, value)) for value in (1, 2, 3)]
    cut(folder / f"fundus-{made[0]}" / "release.json")
    assert export("rollback", "fundus", "--releases", folder)[0] == 0
    code, out, err = export("list", "fundus", "--releases", folder)
    assert code == 0
    rows = [row.split()[:3] for row in out.splitlines()[1:]]
    assert rows[0][:2] == ["fundus", made[2]]
    assert rows[1:] == [["fundus", made[1], "published"], ["fundus", made[0], "damaged"]]
    assert f"fundus-{made[0]}/release.json is damaged" in err.replace("\n", "")
    said = json.loads(export("list", "--releases", folder, "--json")[1])
    assert [entry["release"] for entry in said] == made[::-1]


def test_a_release_that_was_copied_from_elsewhere_is_published_by_its_number_once_it_is_whole(
    export: Command, folder: Path, tmp_path: Path
) -> None:
    here = publish(export, folder, repository(tmp_path / "r", FUNDUS, 1))
    there = tmp_path / "elsewhere"
    number = publish(export, there, repository(tmp_path / "r", FUNDUS, 2))
    command = ["release", "fundus", "--releases", folder, "--number", number]
    for name in (f"fundus-{number}", *releases.read(there, "fundus", number).steps):
        code, _, err = export(*command)
        assert (code, err.count("\n"), "is missing" in err) == (1, 1, True)
        assert releases.current(folder, "fundus") == here
        shutil.copytree(there / name, folder / name, dirs_exist_ok=True)
    assert export(*command)[0] == 0
    assert line(folder, FUNDUS) == [here, number]
    assert export("release", "fundus", "--releases", tmp_path / "absent", "--number", number)[0] == 1
    assert not (tmp_path / "absent").exists()
