"""How each classifier is trained: one `Recipe` per network, which `training.classifier` follows."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fovea.errors import UsageError
from fovea.spec import Network

Trunk = Literal["cnn", "mask_cnn", "vgg16", "resnet50", "mobilenet_v2"]


@dataclass(frozen=True)
class Stage:
    """Some epochs of Adam; the next stage goes on from the best epoch so far.

    `trains` is how many of the trunk's last layers learn beside the head: all of them (None), or none (0). A stage
    ends early after `patience` epochs without a lower validation loss.
    """

    epochs: int
    rate: float
    trains: int | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew for every picture of every epoch; shares of the side, of a turn, of the value range."""

    flip: Literal["horizontal", "horizontal_and_vertical"] = "horizontal_and_vertical"
    rotation: float = 0.08
    zoom: float = 0.15
    shift: float = 0.0
    contrast: float = 0.2
    brightness: float = 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything about a classifier's training that its task does not say.

    Attributes:
        trunk: the convolutional part, see `training.trunks`.
        stages: with a pretrained trunk.
        from_nothing: the one stage without.
        loss: one softmax with one-hot or integer labels, or one sigmoid.
        hidden: units of the Dense + BatchNorm + ReLU + Dropout layers between pooling and answer.
        augments_inside: the augmentation is part of the saved network (asleep in service), not of its data.
        decay: how the rate of a stage falls, by epoch: half a cosine, or to a fifth after `plateau` epochs without
            a lower validation loss.
        test, validation: shares of the patients of every class and data set.
        every_class: data sets that do not show every class are left out: they would teach the camera.
        near_duplicates: pictures that look the same are kept in one split.
        caveat: what its card must say.
    """

    trunk: Trunk
    from_nothing: Stage
    stages: tuple[Stage, ...] = ()
    loss: Literal["categorical", "sparse", "binary"] = "categorical"
    batch: int = 16
    hidden: tuple[int, ...] = ()
    dropout: float = 0.3
    l2: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation = Augmentation()
    augments_inside: bool = False
    decay: Literal["cosine", "plateau"] = "cosine"
    plateau: int = 5
    test: float = 0.25
    validation: float = 0.10
    every_class: bool = False
    near_duplicates: bool = False
    caveat: str = ""

    def stages_from(self, start: str | Path) -> tuple[Stage, ...]:
        """The stages that suit a start from nothing, from a network of this recipe (`.keras`) or a published trunk."""
        if isinstance(start, Path) and start.suffix == ".keras":
            return (replace(self.from_nothing, rate=self.from_nothing.rate / 3),)
        return self.stages if self.stages and start != "none" else (self.from_nothing,)


LOOKED_AT = (
    "The weighting by class and data set, and the number of epochs, were settled after looking at the test split of "
    "HRF, IDRiD and PALM photographs: figures on it are optimistic."
)

RECIPES: dict[str, Recipe] = {
    "fundus_classifier": Recipe(
        trunk="mobilenet_v2",
        stages=(Stage(20, 2e-4),),
        from_nothing=Stage(50, 2e-3),
        label_smoothing=0.05,
        caveat=LOOKED_AT,
    ),
    "retina_classifier": Recipe(
        trunk="mask_cnn", from_nothing=Stage(100, 1e-3), label_smoothing=0.05, caveat=LOOKED_AT
    ),
    "glaucoma_classifier": Recipe(
        trunk="cnn",
        from_nothing=Stage(25, 1e-4),
        loss="binary",
        hidden=(64,),
        dropout=0.4,
        augmentation=Augmentation(rotation=0.1, contrast=0.3, shift=0.05),
        test=0.20,
        every_class=True,
    ),
    "oct_classifier": Recipe(
        trunk="vgg16",
        stages=(Stage(10, 1e-3, trains=0), Stage(20, 1e-5, trains=4)),
        from_nothing=Stage(30, 1e-3),
        batch=32,
        dropout=0.4,
        label_smoothing=0.05,
        # A B-scan is never upside down.
        augmentation=Augmentation("horizontal", rotation=0.03, zoom=0.15, shift=0.08),
    ),
    "glomeruli_classifier": Recipe(
        trunk="resnet50",
        stages=(Stage(60, 1e-4, trains=30, patience=20),),
        from_nothing=Stage(120, 1e-3, patience=40),
        batch=8,
        hidden=(128,),
        dropout=0.5,
        augmentation=Augmentation(rotation=0.5, zoom=0.2, shift=0.05),
        decay="plateau",
        plateau=12,
        test=0.15,
        validation=0.15,
    ),
    "artery_classifier": Recipe(
        trunk="mobilenet_v2",
        stages=(Stage(10, 1e-3, trains=0, patience=5), Stage(40, 1e-4, patience=5)),
        from_nothing=Stage(50, 2e-3),
        loss="sparse",
        dropout=0.3,
        l2=1e-3,
        augmentation=Augmentation(rotation=0.1, zoom=0.1),
        augments_inside=True,
        test=0.15,
        validation=0.15,
        near_duplicates=True,
        caveat="The negative coronary patches mostly show no vessel at all: on them the figures say that a vessel is "
        "seen, not that its narrowing is.",
    ),
}


def recipe_for(network: Network) -> Recipe:
    """The recipe of a classifier, or `UsageError` naming the file that should have one."""
    try:
        return RECIPES[network.name]
    except KeyError:
        raise UsageError(f"training/recipes.py has no recipe for {network.name}: add one.") from None
