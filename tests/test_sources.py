"""Your own data: folders, tables, and the layouts of the newer tasks; what does not fit is refused by name."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from test_datasets import picture

from fovea.errors import TrainingError
from fovea.tasks import TASKS
from training import datasets, duplicates, plan, splits
from training.recipes import RECIPES, recipe_for
from training.sources import read

OCT, GLAUCOMA, ARTERY, GLOMERULI = (TASKS[name] for name in ("oct", "glaucoma", "artery", "glomeruli"))


def table(path: Path, header: tuple[str, ...], *rows: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])
    return path


def test_a_patient_of_kermany_is_one_whatever_folder_and_class_the_scan_lies_in(tmp_path: Path) -> None:
    for half, label, number in (("train", "CNV", 1), ("test", "CNV", 2), ("val", "NORMAL", 1), ("train", "DME", 1)):
        picture(tmp_path / "OCT2017" / half / label / f"{label}-77-{number}.jpeg")
    picture(tmp_path / "OCT2017" / "train" / "CNV" / "CNV-8-1.jpeg")
    picture(tmp_path / "OCT2017" / "train" / "CNV" / "notes.jpeg")
    samples = read(tmp_path, OCT)
    assert Counter(sample.patient for sample in samples) == {"Kermany/77": 4, "Kermany/8": 1}
    assert {sample.path.parent.name: sample.label for sample in samples} == {
        "CNV": "CNV", "NORMAL": "NORMAL", "DME": "DME",
    }  # fmt: skip
    of_patient = {entry.split for entry in splits.assign(samples, 3) if entry.sample.patient == "Kermany/77"}
    assert len(of_patient) == 1


def test_acrima_says_glaucoma_in_the_files_name_and_is_no_full_fundus_photograph(tmp_path: Path) -> None:
    picture(tmp_path / "Images" / "Im001_ACRIMA.jpg")
    picture(tmp_path / "Images" / "Im700_g_ACRIMA.jpg")
    assert [sample.label for sample in read(tmp_path, GLAUCOMA)] == ["Normal", "Glaucoma"]
    with pytest.raises(TrainingError, match="nothing for the task fundus"):
        read(tmp_path, TASKS["fundus"])


def test_the_parts_of_one_slide_are_one_patient(tmp_path: Path) -> None:
    for label, name in (
        ("globally_sclerotic_glomeruli", "S-1_PAS_1of2_aa"),
        ("globally_sclerotic_glomeruli", "S-1_PAS_2of2_bb"),
        ("non_globally_sclerotic_glomeruli", "S-2_PAS_1of2_cc"),
    ):
        picture(tmp_path / label / f"{name}.png")
    samples = read(tmp_path, GLOMERULI)
    assert Counter(s.patient for s in samples) == {"glomeruli/S-1": 2, "glomeruli/S-2": 1}
    assert {s.dataset for s in samples} == {"glomeruli"}


def test_coronary_patches_that_are_equal_share_a_split_and_are_used_once(tmp_path: Path) -> None:
    picture(tmp_path / "patches" / "train" / "negative" / "000.png")
    picture(tmp_path / "patches" / "train" / "positive" / "001.png", colour=250)
    picture(tmp_path / "patches" / "validation" / "positive" / "007.png", colour=250)
    samples = read(tmp_path, ARTERY)
    assert [s.label for s in samples] == ["healthy", "unhealthy", "unhealthy"]
    assert len(splits.assign(samples, 1)) == 2


def test_every_published_set_names_its_licence_and_a_modality_that_some_task_asks_about() -> None:
    asked = {modality for task in TASKS.values() for modality in task.modalities}
    assert asked == {"fundus", "disc", "oct", "glomerulus", "artery"}
    assert len(datasets.READERS) + 1 == len(datasets.LICENCES)  # and the phantoms


@pytest.mark.parametrize("name", ["image", "Image ID", "filename"])
def test_a_table_beside_pictures_gives_labels_and_patients(tmp_path: Path, name: str) -> None:
    for file in ("a.png", "deep/b.png", "c.png"):
        picture(tmp_path / "clinic" / file)
    table(
        tmp_path / "clinic" / "labels.csv",
        (name, "label", "age", "patient"),
        ("a.png", "Glaucoma", "61", "P7"),
        ("b", "Normal", "44", "P7"),
        ("c.png", "Normal", "", ""),
    )
    samples = {sample.path.name: sample for sample in read(tmp_path, GLAUCOMA)}
    assert {n: s.label for n, s in samples.items()} == {"a.png": "Glaucoma", "b.png": "Normal", "c.png": "Normal"}
    assert samples["a.png"].patient == samples["b.png"].patient == "own/P7"
    assert samples["c.png"].patient == "clinic/c"


def test_a_table_that_names_missing_files_is_refused_with_one_of_them(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table(tmp_path / "labels.csv", ("image", "label"), ("a.png", "Normal"), ("gone.png", "Glaucoma"))
    with pytest.raises(TrainingError, match=r"labels\.csv names 1 of 2 files that do not exist, such as 'gone\.png'"):
        read(tmp_path, GLAUCOMA)


@pytest.mark.parametrize(("label", "said"), [("glaucoma", "does not know"), ("", "does not know")])
def test_a_table_with_labels_that_do_not_match_is_refused_with_those_that_do(
    tmp_path: Path, label: str, said: str
) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    table(tmp_path / "labels.csv", ("image", "label"), ("a.png", "Normal"), ("b.png", label))
    with pytest.raises(TrainingError, match=rf"labels\.csv .*{said}.*Normal, Glaucoma"):
        read(tmp_path, GLAUCOMA)


def test_a_table_of_another_task_is_nobodys_business_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table(tmp_path / "other.csv", ("image", "label"), ("a.png", "CNV"))
    with pytest.raises(TrainingError, match="nothing for the task glaucoma"):
        read(tmp_path, GLAUCOMA)
    table(tmp_path / "strange.csv", ("image", "label"), ("a.png", "1"))
    with pytest.raises(TrainingError, match=r"strange\.csv has the labels 1; glaucoma knows Normal, Glaucoma"):
        read(tmp_path, GLAUCOMA)


def test_a_manifest_that_lies_among_the_data_is_not_taken_for_a_table_of_labels(tmp_path: Path) -> None:
    for label in ARTERY.labels:
        picture(tmp_path / "mine" / label / "a.png")
    samples = read(tmp_path, ARTERY)
    splits.write(splits.assign(samples, 1), tmp_path, tmp_path / "out" / "manifest.csv")
    assert read(tmp_path, ARTERY) == samples


def test_answers_of_the_client_among_the_data_are_not_taken_for_labels(tmp_path: Path) -> None:
    picture(tmp_path / "mine" / "healthy" / "a.png")
    header = ("file", "status", "reason", "label", "probability", "milliseconds")
    table(tmp_path / "mine" / "out.csv", header, ("a.png", "ok", "", "unhealthy", "0.9", "3.1"))
    (sample,) = read(tmp_path, ARTERY)
    assert sample.label == "healthy"


def test_two_files_of_one_name_are_told_apart_by_their_path_or_refused(tmp_path: Path) -> None:
    picture(tmp_path / "left" / "1.png")
    picture(tmp_path / "right" / "1.png")
    path = table(tmp_path / "labels.csv", ("image", "label"), ("left/1.png", "Normal"), ("right/1.png", "Glaucoma"))
    assert [s.label for s in read(tmp_path, GLAUCOMA)] == ["Normal", "Glaucoma"]
    table(path, ("image", "label"), ("1.png", "Normal"))
    with pytest.raises(
        TrainingError, match=r"labels\.csv says '1\.png', which .*left/1\.png and .*right/1\.png both are"
    ):
        read(tmp_path, GLAUCOMA)


def test_a_picture_under_two_labels_is_refused_by_both_its_names(tmp_path: Path) -> None:
    picture(tmp_path / "healthy" / "a.png", colour=9)
    table(tmp_path / "labels.csv", ("image", "label"), ("healthy/a.png", "unhealthy"))
    with pytest.raises(TrainingError, match=r"healthy/a\.png is said to be healthy and unhealthy"):
        read(tmp_path, ARTERY)
    (tmp_path / "labels.csv").unlink()
    picture(tmp_path / "unhealthy" / "b.png", colour=9)
    with pytest.raises(TrainingError, match=r"a\.png \(healthy\) and .*b\.png \(unhealthy\) are the same picture"):
        splits.assign(read(tmp_path, ARTERY), 1)


def test_a_named_patient_is_one_whatever_folder_he_lies_in(tmp_path: Path) -> None:
    for half in ("train", "test"):
        picture(tmp_path / "mine" / half / "healthy" / f"p1__{half}.png")
        picture(tmp_path / "mine" / half / "healthy" / f"{half}.png")
    patients = [sample.patient for sample in read(tmp_path, ARTERY)]
    assert Counter(patients)["own/p1"] == 2
    assert len(set(patients)) == 3


def test_a_link_that_leads_nowhere_is_no_picture_and_one_that_vanishes_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "healthy" / "a.png")
    (tmp_path / "healthy" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "healthy" / "folder.png").mkdir()
    samples = read(tmp_path, ARTERY)
    assert [sample.path.name for sample in samples] == ["a.png"]
    samples[0].path.unlink()
    with pytest.raises(TrainingError, match=r"a\.png cannot be read \(No such file"):
        splits.assign(samples, 1)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "Normal" / "a.png")
    (tmp_path / "labels.csv").write_bytes(b"image,label\na.png,\xff\xfe\n")
    with pytest.raises(TrainingError, match=r"labels\.csv cannot be read"):
        read(tmp_path, GLAUCOMA)


def test_an_empty_class_folder_is_refused_by_its_path(tmp_path: Path) -> None:
    picture(tmp_path / "mine" / "healthy" / "a.png")
    (tmp_path / "mine" / "unhealthy").mkdir()
    with pytest.raises(TrainingError, match=r"mine/unhealthy holds no picture"):
        read(tmp_path, ARTERY)


def test_a_misspelt_class_folder_is_refused_because_it_would_silently_not_be_learnt(tmp_path: Path) -> None:
    picture(tmp_path / "mine" / "healthy" / "a.png")
    picture(tmp_path / "mine" / "Unhealthy" / "b.png")
    with pytest.raises(TrainingError, match=r"mine/Unhealthy is no class of artery \(healthy, unhealthy\)"):
        read(tmp_path, ARTERY)


def test_masks_and_published_sets_beside_the_classes_are_not_taken_for_misspelt_ones(tmp_path: Path) -> None:
    picture(tmp_path / "Normal" / "a.png")
    picture(tmp_path / "vessels" / "a.png")
    picture(tmp_path / "PALM-Training400" / "P0001.jpg")
    picture(tmp_path / "PALM-Training400" / "N0001.jpg")
    assert len(read(tmp_path, TASKS["fundus"])) == 3


def test_pictures_of_one_class_alone_are_told_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        picture(tmp_path / "healthy" / f"{number}.png")
    entries = splits.assign(read(tmp_path, ARTERY), 1)
    plan.warn(ARTERY, entries)
    said = capsys.readouterr().err
    assert re.search(r"healthy has 3 patients, too few for the validation split", said.replace("\n", " "))


def test_sets_without_every_class_are_left_out_where_they_would_teach_the_camera(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in GLAUCOMA.labels:
        picture(tmp_path / "both" / label / f"{label}.png")
    picture(tmp_path / "one" / "Normal" / "x.png")
    kept = plan.suitable(GLAUCOMA, read(tmp_path, GLAUCOMA))
    assert {sample.dataset for sample in kept} == {"both"}
    assert "Left out one: sets without every class of glaucoma" in capsys.readouterr().err
    assert len(plan.suitable(TASKS["fundus"], kept)) == len(kept)


def test_split_by_image_takes_the_pictures_of_a_patient_apart(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / "healthy" / f"one__{number}.png")
    samples = read(tmp_path, ARTERY)
    assert {e.split for e in splits.assign(samples, 1)} == {"train"}
    by_image = splits.assign(samples, 1, by="image")
    assert {e.split for e in by_image} == {"train", "validation", "test"}
    assert {e.sample.patient for e in by_image} == {"own/one"}  # whose they are is not forgotten


@pytest.mark.parametrize("name", RECIPES)
def test_the_shares_of_a_recipe_are_kept(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name]
    for number in range(40):
        picture(tmp_path / "healthy" / f"{number}.png")
    entries = splits.assign(read(tmp_path, ARTERY), 1, (recipe.test, recipe.validation))
    counts = Counter(entry.split for entry in entries)
    assert counts["test"] == round(40 * recipe.test)
    assert counts["validation"] == round(40 * recipe.validation)


def test_pictures_that_look_the_same_are_found_and_kept_in_one_split(tmp_path: Path) -> None:
    from fovea import phantoms

    home = tmp_path / "healthy"
    home.mkdir()
    for number in range(12):
        (home / f"{number}.jpg").write_bytes(phantoms.encoded("artery", number))
    from PIL import Image as Pillow

    with Pillow.open(home / "3.jpg") as original:
        original.resize((original.width * 3 // 4, original.height * 3 // 4)).save(home / "copy.png")
    paths = sorted(home.iterdir())
    alike = [{paths[a].name, paths[b].name} for a, b in duplicates.pairs(paths)]
    assert alike == [{"3.jpg", "copy.png"}]
    for seed in range(6):
        of = {
            entry.sample.path.name: entry.split
            for entry in splits.assign(read(tmp_path, ARTERY), seed, near_duplicates=True)
        }
        assert of["3.jpg"] == of["copy.png"]


def test_every_classifier_has_a_recipe_and_every_recipe_a_classifier() -> None:
    networks = {n.name for task in TASKS.values() for n in task.networks if n.framework == "keras"}
    assert set(RECIPES) == networks
    assert all(recipe_for(task.networks[-1]) for task in TASKS.values())
