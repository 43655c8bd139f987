"""The PyTorch recipe on a few phantoms: what it leaves, how it is interrupted and resumed, and what it refuses."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.progress import Progress
from small_runs import RETINA, SIDE, names, new_run, write_phantoms

from fovea.errors import TrainingError
from training import segmenter, vessels
from training.run import Run
from training.segmenter import Schedule
from training.unet import UNet

SCHEDULE = Schedule(steps=12, crop=32, crops_per_step=2, frames_per_step=1, validate_every=4)

# Small pictures gain nothing from threads, which wait for each other where cores are shared.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms")


def segment(run: Run, schedule: Schedule = SCHEDULE) -> None:
    segmenter.train(RETINA, RETINA.networks[0], list(run.entries), run, schedule, Progress(disable=True))


@pytest.fixture(scope="module")
def segmented(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run."""
    run = new_run(folder, tmp_path_factory.mktemp("segmented"))
    segment(run)
    return run


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.export.load(path).state_dict)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_leaves_weights_summary_checkpoint_history_and_plot(segmented: Run) -> None:
    assert names(segmented.folder) == {
        "weights/retina_unet.pt2",
        "weights/retina_unet.json",
        "retina_unet.ckpt",
        "retina_unet.history.json",
        "retina_unet.history.png",
    }
    summary = json.loads((segmented.weights / "retina_unet.json").read_text())
    assert summary["seed"] == 7
    assert summary["data"]["sets"]["phantoms"]["train"] > 0
    assert 0 < summary["threshold_folded"] < 1


def test_the_loss_falls_and_every_validation_is_in_the_history(segmented: Run) -> None:
    history = json.loads((segmented.folder / "retina_unet.history.json").read_text())
    assert [row["step"] for row in history] == [4, 8, 12]
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(0 <= row["validation_dice"] <= 1 for row in history)


@pytest.mark.parametrize("step", [3, 6, 8])
def test_ctrl_c_in_mid_step_and_going_on_gives_the_weights_of_one_go(
    step: int, segmented: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(segmented, folder=tmp_path, weights=tmp_path / "weights")
    stop_at(step, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        segment(run)
    monkeypatch.undo()
    assert not run.weights.exists()
    assert torch.load(run.folder / "retina_unet.ckpt", weights_only=True)["state"]["step"] == step
    segment(run)
    assert_equal(run, segmented)


def test_a_run_that_dies_in_mid_step_goes_on_from_its_last_validation(
    segmented: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(segmented, folder=tmp_path, weights=tmp_path / "weights")

    def die() -> None:
        raise MemoryError

    stop_at(7, die, monkeypatch)
    with pytest.raises(MemoryError):
        segment(run)
    monkeypatch.undo()
    assert torch.load(run.folder / "retina_unet.ckpt", weights_only=True)["state"]["step"] == 4
    segment(run)
    assert_equal(run, segmented)


def test_ctrl_c_works_again_as_ever_after_training(segmented: Run) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_checkpoint_of_other_settings_is_refused_and_left_as_it_is(segmented: Run) -> None:
    checkpoint = segmented.folder / "retina_unet.ckpt"
    before = checkpoint.read_bytes()
    others = (
        (segmented, replace(SCHEDULE, steps=13)),
        (replace(segmented, seed=8), SCHEDULE),
        (replace(segmented, manifest_sha256="1" * 64), SCHEDULE),
    )
    for run, schedule in others:
        with pytest.raises(TrainingError, match=r"retina_unet\.ckpt belongs to another run"):
            segment(run, schedule)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("harm", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence_and_left(
    harm: Callable[[bytes], bytes], segmented: Run, tmp_path: Path
) -> None:
    harmed = harm((segmented.folder / "retina_unet.ckpt").read_bytes())
    (tmp_path / "retina_unet.ckpt").write_bytes(harmed)
    with pytest.raises(TrainingError, match=r"retina_unet\.ckpt is no checkpoint") as caught:
        segment(replace(segmented, folder=tmp_path, weights=tmp_path / "weights"))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "retina_unet.ckpt").read_bytes() == harmed


def test_the_finished_weights_answer_a_half_where_the_threshold_was(segmented: Run) -> None:
    """The best checkpoint and the saved program differ by the folded threshold and nothing else."""
    state = torch.load(segmented.folder / "retina_unet.ckpt", weights_only=True)["state"]
    threshold = json.loads((segmented.weights / "retina_unet.json").read_text())["threshold_folded"]
    trained = UNet().eval()
    trained.load_state_dict(state["best"]["weights"])
    picture = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    with torch.no_grad():
        before = trained(torch.from_numpy(picture)).numpy().astype(np.float64)
        after = torch.export.load(segmented.weights / "retina_unet.pt2").module()(torch.from_numpy(picture)).numpy()
    odds = before / (1 - before) * (1 - threshold) / threshold
    assert np.abs(odds / (1 + odds) - after).max() < 1e-5
    assert ((before >= threshold) == (after >= 0.5)).mean() > 0.999


def test_without_vessel_masks_it_says_which_sets_have_them(folder: Path, tmp_path: Path) -> None:
    run = new_run(folder, tmp_path)
    bare = tuple(replace(entry, sample=replace(entry.sample, vessels=None)) for entry in run.entries)
    with pytest.raises(TrainingError, match="HRF, CHASE_DB1 or DRIVE"):
        segment(replace(run, entries=bare))
    assert not names(tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    segmented: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(segmented, folder=tmp_path, weights=tmp_path / "weights")
    honest = vessels.batch

    def poisoned(*arguments: Any) -> Any:
        pictures, targets = honest(*arguments)
        return pictures * np.float32(np.nan), targets

    calls = iter(range(100))
    monkeypatch.setattr(vessels, "batch", lambda *a: (honest if next(calls) < 5 else poisoned)(*a))
    with pytest.raises(TrainingError, match="no longer finite"):
        segment(run)
    saved = torch.load(run.folder / "retina_unet.ckpt", weights_only=True)
    assert saved["state"]["step"] == 4
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def stop_at(step: int, stop: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """`stop` is called in the middle of that step: the weights have moved, their average has not."""
    honest, calls = segmenter._step, iter(range(1, 1000))

    def interrupted(*arguments: Any) -> float:
        loss = honest(*arguments)
        if next(calls) == step:
            stop()
        return loss

    monkeypatch.setattr(segmenter, "_step", interrupted)


def assert_equal(run: Run, other: Run) -> None:
    """The finished weights, the whole state of the optimiser and the history agree to the last bit."""
    assert same(tensors(run.weights / "retina_unet.pt2"), tensors(other.weights / "retina_unet.pt2"))
    one, two = (torch.load(r.folder / "retina_unet.ckpt", weights_only=True) for r in (run, other))
    assert same(one["model"], two["model"])
    assert same(one["average"], two["average"])
    histories = [(r.folder / "retina_unet.history.json").read_text() for r in (run, other)]
    assert histories[0] == histories[1]


def test_it_has_the_parameters_its_docstring_says() -> None:
    assert sum(parameter.numel() for parameter in UNet().parameters()) == 121_177
    assert "121,177" in (UNet.__doc__ or "")


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.9])
def test_folding_moves_the_threshold_to_a_half_and_keeps_the_order(threshold: float) -> None:
    torch.manual_seed(5)
    model = UNet().eval()
    picture = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8))
    bias = model.head.bias
    assert bias is not None
    with torch.no_grad():
        before = model(picture).double().flatten()
        bias += torch.logit(torch.tensor(threshold)) - torch.logit(before[0].float())  # pixel 0: at it
        before = model(picture).double().flatten()
        model.fold_threshold(threshold)
        after = model(picture).double().flatten()
    assert before[0].item() == pytest.approx(threshold, abs=1e-6)
    assert after[0].item() == pytest.approx(0.5, abs=1e-6)
    assert torch.equal(before > before[0], after > after[0])


def test_a_picture_of_any_side_in_eights_is_answered_pixel_by_pixel() -> None:
    with torch.no_grad():
        for height, width in ((8, 8), (40, 72)):
            answer = UNet().eval()(torch.zeros((2, height, width, 3), dtype=torch.uint8))
            assert answer.shape == (2, height, width, 1)
            assert ((answer > 0) & (answer < 1)).all()


def test_a_mask_in_other_pixels_than_its_photograph_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    entry = new_run(folder, tmp_path).entries[0]
    wrong = tmp_path / "wrong.png"
    wrong.write_bytes(cv2.imencode(".png", np.zeros((48, 54), np.uint8))[1].tobytes())
    changes: list[dict[str, Any]] = [{"vessels": wrong}, {"field_of_view": wrong}]
    for change in changes:
        with pytest.raises(TrainingError, match=r"wrong\.png has 54×48 pixels and its photograph 108×96"):
            vessels.load([replace(entry, sample=replace(entry.sample, **change))], RETINA.image)


@pytest.mark.parametrize("broken", ["path", "vessels", "field_of_view"])
def test_a_damaged_photograph_or_mask_is_named(broken: str, folder: Path, tmp_path: Path) -> None:
    entry = new_run(folder, tmp_path).entries[0]
    (tmp_path / "broken.png").write_bytes(entry.sample.path.read_bytes()[:-200])
    change: dict[str, Any] = {broken: tmp_path / "broken.png"}
    harmed = replace(entry, sample=replace(entry.sample, **change))
    with pytest.raises(TrainingError, match=r"broken\.png: The .*again\."):
        vessels.load([harmed], RETINA.image)


def test_picture_and_mask_stay_together_under_every_augmentation(folder: Path, tmp_path: Path) -> None:
    """A case whose vessels are what is bright: wherever a window is cut, they are still the bright part."""
    case = vessels.load(new_run(folder, tmp_path).entries[:1], RETINA.image)[0]
    bright = np.where(case.vessels[..., None] > 127, np.uint8(250), np.uint8(20)).repeat(3, axis=2)
    tracing = [replace(case, picture=bright, vessels=np.where(case.vessels > 127, np.uint8(255), np.uint8(0)))]
    for seed in range(20):
        pictures, targets = vessels.batch(tracing, 48, 1, (0.7, 1.4), np.random.default_rng(seed))
        assert pictures.min() >= 0
        assert pictures.max() <= 1
        # Where there is light at all, it follows the mask.
        assert np.corrcoef(pictures.mean(axis=-1).ravel(), targets.ravel())[0, 1] > 0.7, seed
