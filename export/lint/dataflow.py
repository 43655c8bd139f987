"""The tensors of an ensemble: who makes each, who reads it, and what waits for ever."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from export.lint.finding import Finding, listed
from export.lint.models import Config


@dataclass(frozen=True)
class Flow:
    """Tensor → where in the config it is declared, made by a step, or read by one; `steps`: (reads, makes)."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    made: Mapping[str, list[str]]
    read: Mapping[str, list[str]]
    steps: list[tuple[set[str], set[str]]]

    @classmethod
    def of(cls, message: Any) -> Self:
        made: dict[str, list[str]] = {}
        read: dict[str, list[str]] = {}
        steps = message.ensemble_scheduling.step
        for i, step in enumerate(steps):
            place = f"ensemble_scheduling.step[{i}]"
            for name, tensor in sorted(step.output_map.items()):
                made.setdefault(tensor, []).append(f'{place}.output_map["{name}"]')
            for name, tensor in sorted(step.input_map.items()):
                read.setdefault(tensor, []).append(f'{place}.input_map["{name}"]')
        inputs = {tensor.name: f"input[{i}]" for i, tensor in enumerate(message.input)}
        outputs = {tensor.name: f"output[{i}]" for i, tensor in enumerate(message.output)}
        return cls(
            inputs, outputs, made, read, [(set(s.input_map.values()), set(s.output_map.values())) for s in steps]
        )

    def waiting(self, given: set[str]) -> list[int]:
        """The steps that never run when the tensors `given` are there from the start."""
        ready = set(given)
        waiting = list(range(len(self.steps)))
        while True:
            runs = [i for i in waiting if self.steps[i][0] <= ready]
            if not runs:
                return waiting
            for i in runs:
                ready |= self.steps[i][1]
            waiting = [i for i in waiting if i not in runs]


def flow_findings(flow: Flow, config: Config) -> Iterator[Finding]:
    yield from _made(flow, config)
    yield from _unused(flow, config)
    for tensor in (name for name in flow.outputs if name in flow.made and name in flow.read):
        said = f"{tensor} is an output, and a step reads it: asking for some of the outputs then fails in Triton 2.51."
        cure = "Give the model that makes it two equal outputs, one for the client and one to read on."
        yield config.finding("output-read-on", flow.outputs[tensor], said, cure)


def _made(flow: Flow, config: Config) -> Iterator[Finding]:
    for tensor, places in flow.made.items():
        if len(places) > 1 or tensor in flow.inputs:
            others = "an input of the ensemble" if tensor in flow.inputs else f"made by {places[0]} already"
            said = f"{tensor} is {others}."
            yield config.finding("tensor-twice", places[-1], said, "Give one of them another name.")
    unmade = [tensor for tensor in flow.read if tensor not in flow.made and tensor not in flow.inputs]
    known = listed([*flow.inputs, *flow.made])
    for tensor in unmade:
        said = f"{tensor} is read, and neither an input nor made by a step; there is {known}."
        yield config.finding("tensor-not-made", flow.read[tensor][0], said, "Write one of those names.")
    for tensor in (name for name in flow.outputs if name not in flow.made and name not in flow.inputs):
        said = f"Output {tensor} is made by no step; there is {known}."
        yield config.finding("output-not-made", flow.outputs[tensor], said, "Map a step's output to that name.")
    stuck = flow.waiting({*flow.inputs, *unmade})
    if stuck:
        said = f"Steps {listed(str(i + 1) for i in stuck)} wait for tensors that none makes before the other has run."
        place = f"ensemble_scheduling.step[{stuck[0]}]"
        yield config.finding("tensor-cycle", place, said, "Let the first of them read what an earlier step makes.")


def _unused(flow: Flow, config: Config) -> Iterator[Finding]:
    for tensor in (name for name in flow.inputs if name not in flow.read):
        said = f"Input {tensor} is read by no step: Triton does not load the ensemble."
        yield config.finding("tensor-unused", flow.inputs[tensor], said, "Map it to a step's input, or take it out.")
    for tensor, places in flow.made.items():
        if tensor not in flow.read and tensor not in flow.outputs:
            said = f"{tensor} is made, and neither read nor an output: Triton does not load the ensemble."
            yield config.finding(
                "tensor-unused", places[0], said, "Take the line out: steps may leave outputs unmapped."
            )
