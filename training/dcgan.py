"""`--prepare dcgan`: pictures that a generative adversarial network adds to rare classes of the training split.

One DCGAN (arXiv:1511.06434) per rare class, taught by the training pictures of that class alone. Its pictures have 64
pixels and are enlarged to the side the classifier sees: they are softer than photographs, and a classifier may learn
that softness marks a rare class. Whether they help is a question for `training.ablation`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import nn

from fovea import pixels
from fovea.errors import TrainingError
from training import batches
from training.batches import Labelled
from training.recipes import Recipe
from training.run import Run

SIDE = 64
"""Pixels of a generated picture, as published."""
SHOWN = 4
"""Rows and columns of either half of the contact sheet."""
CHUNK = 64
Stack = npt.NDArray[np.uint8]  # [n, height, width, 3]


@dataclass(frozen=True)
class Settings:
    """As published, but `width` (there 128): few pictures, and no GPU. `steps` are of both networks' Adam."""

    steps: int = 1500
    batch: int = 16
    latent: int = 100
    width: int = 32
    rate: float = 2e-4
    momentum: float = 0.5


SETTINGS = Settings()


def wanted(labels: Sequence[int]) -> dict[int, int]:
    """Pictures to generate per rare class: one with fewer than half of the largest class's comes up to that half."""
    counts = np.bincount(labels)
    half = -(-int(counts.max()) // 2)
    return {place: half - int(count) for place, count in enumerate(counts) if 0 < count < half}


def oversampled(
    names: Sequence[str], data: Labelled, recipe: Recipe, run: Run, bar: Progress, settings: Settings
) -> tuple[Labelled, dict[str, int]]:
    """The training split `data` with generated pictures behind its own, and how many of which class were added.

    They are weighed as a data set of their own. What was generated lies in the run's folder, named by manifest, seed
    and settings, and is read again by a resumed run; `dcgan-<class>.png` shows it beside photographs.

    Raises:
        TrainingError: a generator diverged.
    """
    lacking = wanted(data.labels)
    if not lacking:
        return data, {}
    side = data.inputs.shape[1]
    made = {}
    for place, count in lacking.items():
        own = np.flatnonzero(np.array(data.labels) == place)
        made[place] = _generated(names[place], data.inputs, own, count, [run.seed, place], run, bar, settings)
    labels = (*data.labels, *(place for place, count in lacking.items() for _ in range(count)))
    groups = (*data.groups, *(f"dcgan/{names[labels[row]]}" for row in range(len(data.labels), len(labels))))
    key = hashlib.sha256(b"".join([run.manifest_sha256.encode(), *(stack.tobytes() for stack in made.values())]))
    path = run.folder / "inputs" / f"dcgan-{side}-{key.hexdigest()[:16]}.npy"

    def fill(part: Path) -> None:
        shape = len(labels), *data.inputs.shape[1:]
        array = np.lib.format.open_memmap(part, "w+", np.uint8, shape)  # type: ignore[no-untyped-call]
        for first in range(0, len(data.inputs), CHUNK):
            array[first : first + CHUNK][: len(data.inputs) - first] = data.inputs[first : first + CHUNK]
        synthetic = (picture for stack in made.values() for picture in stack)
        for row, picture in enumerate(synthetic, len(data.inputs)):
            array[row] = pixels.resize(picture, side)
        array.flush()

    if not path.exists():
        run.replace(path, fill)
    both = replace(
        data,
        inputs=np.load(path, mmap_mode="r"),
        labels=labels,
        targets=batches.targets(recipe, labels, len(names)),
        weights=batches.balanced(groups),
        groups=groups,
    )
    return both, {names[place]: count for place, count in lacking.items()}


def _generated(
    name: str,
    pictures: Stack,
    own: npt.NDArray[np.int64],
    count: int,
    seed: list[int],
    run: Run,
    bar: Progress,
    settings: Settings,
) -> Stack:
    """`count` generated pictures `[count, SIDE, SIDE, 3]` of the class whose pictures are at `own`."""
    # Whether tasks.py now declares other pictures shows in the first one.
    first = hashlib.sha256(pictures[own[0]].tobytes()).hexdigest()
    key = json.dumps([run.manifest_sha256, seed, name, len(own), count, first, asdict(settings)])
    path = run.folder / f"dcgan-{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        real = np.stack([_small(pictures[place]) for place in own])
        made = generate(real, count, seed, settings, bar, name)
        _sheet(real, made, name, run)
        run.replace(path, lambda part: np.save(part, made))
    try:
        stored: Stack = np.load(path)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({type(error).__name__}): delete it to generate again.") from None
    return stored


def _small(picture: pixels.Picture) -> pixels.Picture:
    return pixels.resize(np.ascontiguousarray(picture), SIDE)


def generate(real: Stack, count: int, seed: list[int], settings: Settings, bar: Progress, name: str) -> Stack:
    """Train a generator on `real` (uint8 `[n, SIDE, SIDE, 3]`) and draw `count` pictures from it."""
    places = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):  # nobody else's draws change
        torch.manual_seed(int(places.integers(2**31)))
        generator, critic = _generator(settings), _critic(settings)
        adams = [
            torch.optim.Adam(part.parameters(), settings.rate, betas=(settings.momentum, 0.999))
            for part in (generator, critic)
        ]
        row = bar.add_task(f"dcgan {name}", total=settings.steps, note="")
        for _ in range(settings.steps):
            batch = real[places.integers(len(real), size=settings.batch)]
            mirrored = places.random(settings.batch) < 0.5
            batch[mirrored] = batch[mirrored, :, ::-1]
            shown = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
            losses = _step(generator, critic, adams, shown, settings)
            bar.update(row, advance=1, note=f"critic {losses[1]:.2f}")
        bar.remove_task(row)
        generator.eval()
        with torch.no_grad():
            noise = torch.randn(count, settings.latent, 1, 1)
            drawn = torch.cat([generator(noise[first : first + CHUNK]) for first in range(0, count, CHUNK)])
    if not bool(torch.isfinite(drawn).all()):
        raise TrainingError(f"The generator of {name} diverged: train with another --seed, or another --prepare.")
    levels = ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())


def _step(
    generator: nn.Module, critic: nn.Module, adams: list[torch.optim.Adam], real: torch.Tensor, settings: Settings
) -> tuple[float, float]:
    """One step of both; the losses of generator and critic."""
    loss = nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
    made = generator(torch.randn(len(real), settings.latent, 1, 1))
    adams[1].zero_grad()
    told = loss(critic(real), ones) + loss(critic(made.detach()), zeros)
    told.backward()  # type: ignore[no-untyped-call]
    adams[1].step()
    adams[0].zero_grad()
    fooled = loss(critic(made), ones)
    fooled.backward()  # type: ignore[no-untyped-call]
    adams[0].step()
    return fooled.item(), told.item()


def _generator(settings: Settings) -> nn.Module:
    """Noise `[batch, latent, 1, 1]` → `[batch, 3, SIDE, SIDE]` in −1…1."""
    wide, layers, below = 8 * settings.width, list[nn.Module](), settings.latent
    for number in range(4):
        stride, padding = (2, 1) if number else (1, 0)
        layers += [nn.ConvTranspose2d(below, wide >> number, 4, stride, padding, bias=False)]
        layers += [nn.BatchNorm2d(wide >> number), nn.ReLU()]
        below = wide >> number
    return _published(nn.Sequential(*layers, nn.ConvTranspose2d(below, 3, 4, 2, 1), nn.Tanh()))


def _critic(settings: Settings) -> nn.Module:
    """Pictures in −1…1 → logit of being a photograph `[batch]`; no batch norm on its input."""
    layers: list[nn.Module] = [nn.Conv2d(3, settings.width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for number in range(3):
        channels = settings.width << number
        layers += [nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * channels)]
        layers += [nn.LeakyReLU(0.2)]
    return _published(nn.Sequential(*layers, nn.Conv2d(8 * settings.width, 1, 4), nn.Flatten(0)))


def _published(network: nn.Module) -> nn.Module:
    """The weights' first values as published: normal, deviation 0.02."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.02)
    return network


def _sheet(real: Stack, made: Stack, name: str, run: Run) -> None:
    """`<folder>/dcgan-<class>.png`: photographs of the training split on the left, generated pictures on the right."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    for axes, stack, title in zip(figure.subplots(1, 2), (real, made), ("training split", "generated"), strict=True):
        sheet = np.full((SHOWN * SIDE, SHOWN * SIDE, 3), 255, np.uint8)
        for place, picture in enumerate(stack[: SHOWN * SHOWN]):
            top, left = SIDE * (place // SHOWN), SIDE * (place % SHOWN)
            sheet[top : top + SIDE, left : left + SIDE] = picture
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(f"{title}, {len(stack)} pictures", fontsize=10)
        axes.set_axis_off()
    figure.suptitle(f"{name}, {SIDE} × {SIDE} pixels", fontsize=11)
    run.replace(run.folder / f"dcgan-{name}.png", lambda part: figure.savefig(part, dpi=110))
