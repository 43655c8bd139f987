"""The PyTorch recipe: trains the U-Net, keeps the best checkpoint, resumes, and saves `weights/<network>.pt2`."""

import io
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from fovea.errors import TrainingError
from fovea.spec import Network, Task
from training import vessels
from training.run import Run
from training.splits import Entry
from training.unet import UNet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Schedule:
    """AdamW with warm-up and cosine; crops first, whole frames for the last fifth (they settle the batch norms)."""

    steps: int = 7500
    crop: int = 256
    crops_per_step: int = 4
    frames_per_step: int = 2
    frames_share: float = 0.2
    rate: float = 1e-2
    final_rate: float = 1e-4
    decay: float = 1e-4
    warm_up_share: float = 0.1
    ema: float = 0.995
    validate_every: int = 250

    def rate_at(self, step: int) -> float:
        warm_up = self.warm_up_share * self.steps
        if step < warm_up:
            return self.rate * (step + 1) / warm_up
        progress = (step - warm_up) / (self.steps - warm_up)
        return self.final_rate + (self.rate - self.final_rate) * (1 + math.cos(math.pi * progress)) / 2


def train(task: Task, network: Network, entries: list[Entry], run: Run, schedule: Schedule, bar: Progress) -> None:
    """Train `network` and leave `<weights>/<network>.pt2`, its `.json`, history and plot."""
    torch.manual_seed(run.seed)
    cases = {
        split: vessels.load([entry for entry in entries if entry.split == split], task.image)
        for split in ("train", "validation")
    }
    if not cases["train"] or not cases["validation"]:
        raise TrainingError(
            "No photographs with vessel masks to train and validate on: --data needs HRF, CHASE_DB1 or DRIVE."
        )
    model = UNet().to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.ema)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=ema, use_buffers=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=schedule.rate, weight_decay=schedule.decay)
    state: dict[str, Any] = {"step": 0, "history": [], "recent": [], "best": {"dice": -1.0}}
    settings = {"network": network.name, "seed": run.seed, "manifest": run.manifest_sha256} | asdict(schedule)
    checkpoint = run.folder / f"{network.name}.ckpt"
    if checkpoint.exists():
        saved = _read(checkpoint, settings)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        state |= saved["state"]

    def save() -> None:
        run.write_json(run.folder / f"{network.name}.history.json", state["history"])
        now = {
            "settings": settings,
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "state": state,
        }
        _write(run, checkpoint, lambda content: torch.save(now, content))

    row = bar.add_task(network.name, total=schedule.steps, completed=state["step"], note="")
    with _ctrl_c_held_back() as asked:
        while state["step"] < schedule.steps:
            step = state["step"]
            on_frames = step >= (1 - schedule.frames_share) * schedule.steps
            # The draw depends on (seed, step) alone, so a resumed run sees what an uninterrupted one sees.
            generator = np.random.default_rng([run.seed, step])
            pictures, targets = (
                vessels.batch(cases["train"], task.image.side, schedule.frames_per_step, (0.85, 1.2), generator)
                if on_frames
                else vessels.batch(cases["train"], schedule.crop, schedule.crops_per_step, (0.7, 1.4), generator)
            )
            state["recent"].append(_step(model, optimiser, pictures, targets, schedule.rate_at(step)))
            average.update_parameters(model)
            state["step"] = step + 1
            if state["step"] % schedule.validate_every == 0 or state["step"] == schedule.steps:
                threshold, dice = best_threshold(average.module, cases["validation"])
                loss = float(np.mean(state["recent"]))
                state["history"].append({"step": step + 1, "loss": loss, "validation_dice": dice})
                if dice > state["best"]["dice"]:
                    state["best"] = {
                        "dice": dice,
                        "step": step + 1,
                        "weights": {name: value.clone() for name, value in average.module.state_dict().items()},
                    }
                state["recent"] = []
                save()
            note = f"loss {np.mean(state['recent'][-50:] or [state['history'][-1]['loss']]):.4f}"
            bar.update(row, completed=state["step"], note=f"{note}  best Dice {max(state['best']['dice'], 0):.4f}")
            if asked.is_set():
                save()
                raise KeyboardInterrupt
    best = UNet().to(DEVICE)
    best.load_state_dict(state["best"]["weights"])
    threshold, train_dice = best_threshold(best, cases["train"])
    best.fold_threshold(threshold)
    save_program(best, task, run.weights / f"{network.name}.pt2", run)
    summary = {
        "network": network.name,
        "framework": f"torch {torch.__version__}",
        "seed": run.seed,
        "schedule": asdict(schedule),
        "best_step": state["best"]["step"],
        "validation_dice": state["best"]["dice"],
        "threshold_folded": threshold,
        "train_dice": train_dice,
        "data": run.describe(entry for entry in entries if entry.sample.vessels is not None),
    }
    run.write_json(run.weights / f"{network.name}.json", summary)
    run.plot_history(network.name, state["history"], "step", "validation_dice")


@contextmanager
def _ctrl_c_held_back() -> Iterator[threading.Event]:
    """Ctrl-C only sets the event: a step that ends half done would leave running statistics ahead of the weights."""
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _read(checkpoint: Path, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(checkpoint, map_location=DEVICE, weights_only=True)
        known = saved["settings"]
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        raise TrainingError(
            f"{checkpoint} is no checkpoint of this program ({type(error).__name__}): delete it to start again."
        ) from None
    if known != settings:
        raise TrainingError(
            f"{checkpoint} belongs to another run (other data, seed or schedule): "
            "delete it, or train into another folder with --out."
        )
    return saved


def _write(run: Run, path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Through memory: PyTorch's own writer reports a full disk as a RuntimeError about positions."""
    content = io.BytesIO()
    save(content)
    run.replace(path, lambda part: part.write_bytes(content.getvalue()))


def _step(
    model: UNet,
    optimiser: torch.optim.Optimizer,
    pictures: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32],
    rate: float,
) -> float:
    model.train()
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(DEVICE)  # [batch, 3, size, size], channels last in memory
    y = torch.from_numpy(targets)[:, None].to(DEVICE)
    for group in optimiser.param_groups:
        group["lr"] = rate
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model.logits(x), y)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError("The loss is no longer finite: lower the learning rate or look for damaged masks.")
    return value


@torch.no_grad()
def predict(model: torch.nn.Module, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Vessel probability float32 `[side, side]` of one preprocessed picture uint8 `[side, side, 3]`."""
    model.eval()
    answer = model(torch.from_numpy(picture)[None].to(DEVICE))
    return np.asarray(answer[0, ..., 0].cpu().numpy(), np.float32)


def best_threshold(model: torch.nn.Module, cases: list[vessels.Case]) -> tuple[float, float]:
    """The threshold (a 256th) with the best pooled Dice in the field of view, and that Dice."""
    positives, negatives = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for case in cases:
        level = np.clip(predict(model, case.picture) * 255 + 0.5, 0, 255).astype(np.uint8)[case.inside == 1]
        vessel = case.vessels[case.inside == 1] >= 128
        positives += np.bincount(level[vessel], minlength=256)
        negatives += np.bincount(level[~vessel], minlength=256)
    found = positives[::-1].cumsum()[::-1]  # vessel pixels at or above each level
    claimed = found + negatives[::-1].cumsum()[::-1]
    dice = 2 * found / np.maximum(claimed + positives.sum(), 1)
    level_ = int(dice[1:-1].argmax()) + 1
    return level_ / 255, float(dice[level_])


def save_program(model: UNet, task: Task, path: Path, run: Run) -> None:
    """Save as a torch.export program with a free batch axis."""
    model = model.cpu().eval()
    example = torch.zeros((2, task.image.side, task.image.side, 3), dtype=torch.uint8)
    program = torch.export.export(
        model, (example,), dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=64)}}
    )
    _write(run, path, lambda content: torch.export.save(program, content))


def read_summary(path: Path) -> dict[str, Any]:
    """The `.json` beside a network's weights."""
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary
