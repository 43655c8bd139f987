"""The vocabulary in which a task is declared. Standard library only.

A `Task` says what is asked of an image, which networks see it, and what they answer. Training input, ONNX
names and shapes, config.pbtxt, the client's checks, benchmark rows and test cases are all derived from it.
"""

from dataclasses import dataclass
from typing import Literal

Modality = Literal["fundus", "disc", "oct", "glomerulus", "artery"]
"""A kind of picture: a data set says which it holds, a task which it is asked about."""

THRESHOLD = 128
"""A mask pixel of at least this value (of 255) is inside: export folds the operating threshold into the network."""


@dataclass(frozen=True)
class Tensor:
    """A named output; `dtype` is the V2 protocol's word, `shape` leaves out the batch."""

    name: str
    dtype: Literal["UINT8", "INT32", "FP32"]
    shape: tuple[int, ...]


FRAME = Tensor("frame", "INT32", (4,))
"""Left, top, width, height of the square the networks saw, in pixels of the upright source picture."""


@dataclass(frozen=True)
class Image:
    """The square uint8 RGB picture a task's networks see, `[side, side, 3]`."""

    side: int
    crop: Literal["field_of_view", "none"] = "none"
    equalisation: Literal["none", "histogram", "clahe"] = "none"


@dataclass(frozen=True)
class Classes:
    """Output `probabilities`, float32 `[batch, len(labels)]`, in 0…1, summing to 1.

    `healthy` is the label that says nothing was found; 1 − its probability is the score that operating points cut.
    """

    labels: tuple[str, ...]
    healthy: str

    @property
    def tensor(self) -> Tensor:
        return Tensor("probabilities", "FP32", (len(self.labels),))


@dataclass(frozen=True)
class Mask:
    """Output `<name>`, uint8 `[batch, side, side, 1]` = round(255 · probability); inside where ≥ `THRESHOLD`."""

    name: str
    side: int

    @property
    def tensor(self) -> Tensor:
        return Tensor(self.name, "UINT8", (self.side, self.side, 1))

    @property
    def onward(self) -> Tensor:
        """A second, identical output, which feeds the next network.

        Triton cannot answer a request for some of an ensemble's outputs when one tensor is both such an output and
        a later step's input ("unexpected deadlock"): what goes to the client and what goes onward must be two.
        """
        return Tensor(f"{self.name}_onward", "UINT8", (self.side, self.side, 1))


@dataclass(frozen=True)
class Heatmap:
    """Output `heatmap`, float32 `[batch, side, side]`, ≥ 0: exact Grad-CAM of the top class before softmax."""

    side: int

    @property
    def tensor(self) -> Tensor:
        return Tensor("heatmap", "FP32", (self.side, self.side))


@dataclass(frozen=True)
class Tolerance:
    """Parity holds where |onnx − framework| ≤ atol + rtol · |framework|, for every element."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class Network:
    """One graph: `weights/<file>` in its framework, `model_repository/<name>/1/model.onnx` when exported.

    `reads` names what it sees: "image" (the preprocessed picture) or a mask of an earlier network in the task.
    """

    name: str
    framework: Literal["torch", "keras", "onnx"]
    reads: str
    answers: tuple[Classes | Mask | Heatmap, ...]
    tolerance: Tolerance
    max_batch: int = 8

    @property
    def file(self) -> str:
        """Its weights in its framework; "onnx" is a network that was trained and exported elsewhere."""
        return f"{self.name}.{'pt2' if self.framework == 'torch' else self.framework}"

    @property
    def masks(self) -> tuple[Mask, ...]:
        return tuple(answer for answer in self.answers if isinstance(answer, Mask))

    @property
    def batches(self) -> tuple[int, int, int]:
        """Least, typical and largest batch of a TensorRT engine, which is tuned for the typical one and takes them all.

        Typical is half of the largest: dynamic batching sends a lone picture when idle and full batches under load, and
        an engine tuned for either end is far from the other. Chosen so, not measured.
        """
        return 1, max(1, self.max_batch // 2), self.max_batch


@dataclass(frozen=True)
class Task:
    """A question asked of an image, and the networks, in order, that answer it."""

    name: str
    question: str
    image: Image
    modalities: tuple[Modality, ...]  # the first is what phantoms show
    networks: tuple[Network, ...]

    @property
    def answers(self) -> tuple[Classes | Mask | Heatmap, ...]:
        return tuple(answer for network in self.networks for answer in network.answers)

    @property
    def masks(self) -> tuple[Mask, ...]:
        return tuple(answer for answer in self.answers if isinstance(answer, Mask))

    @property
    def classes(self) -> Classes | None:
        return next((answer for answer in self.answers if isinstance(answer, Classes)), None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of `probabilities`; empty for a task without a classifier."""
        return self.classes.labels if self.classes else ()

    @property
    def heatmap(self) -> Heatmap | None:
        return next((answer for answer in self.answers if isinstance(answer, Heatmap)), None)

    @property
    def max_batch(self) -> int:
        """An ensemble takes no larger batch than its smallest step."""
        return min(network.max_batch for network in self.networks)

    def network(self, name: str) -> Network:
        return next(network for network in self.networks if network.name == name)

    def input_shape(self, network: Network) -> tuple[int, int, int]:
        """`(height, width, channels)` of what `network` reads: the picture, or an earlier network's mask."""
        if network.reads == "image":
            return self.image.side, self.image.side, 3
        mask = next(mask for mask in self.masks if mask.name == network.reads)
        return mask.side, mask.side, 1

    def profile(self, network: Network) -> tuple[tuple[int, ...], ...]:
        """Shapes `(batch, height, width, channels)` of what `network` reads, at each of its `batches`."""
        return tuple((batch, *self.input_shape(network)) for batch in network.batches)

    def graph_outputs(self, network: Network) -> tuple[Tensor, ...]:
        """Every output of a network's graph, the masks that a later network reads twice."""
        read = {later.reads for later in self.networks}
        onward = (mask.onward for mask in network.masks if mask.name in read)
        return (*(answer.tensor for answer in network.answers), *onward)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What a client can ask for."""
        return (*(answer.tensor for answer in self.answers), FRAME)

    def source(self, network: Network) -> str:
        """The tensor that `network` reads inside the ensemble."""
        if network.reads == "image":
            return "pixels"
        return next(mask.onward.name for mask in self.masks if mask.name == network.reads)
