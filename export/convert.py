"""A task's trained networks → finished graphs and cards, each judged against its framework. Needs both frameworks."""

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.console import Console
from rich.table import Table

from fovea import quiet

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with quiet.native_stderr():
    from export import card, card_page, evidence, from_keras, from_onnx, from_torch, gradcam, graph, parity, pictures
    from export import ladder as ladders
    from export.precision import Ladder
from fovea.errors import ExportError
from fovea.repository import Choice, Hardware
from fovea.spec import Heatmap, Network, Task

MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True)
Stack = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Converted:
    """`files` by path below the repository; what the configs need to know besides the task."""

    files: dict[str, bytes]
    points: dict[str, float]
    choices: dict[str, dict[Hardware, Choice]]


def convert(task: Task, options: argparse.Namespace) -> Converted:
    """Every network's graphs and card, and the thresholds stored with the classifier.

    Raises:
        ParityError: an output of any network is not what its framework answers.
        ExportError: the precision that was asked for does not hold, or there is nothing to judge it on.
    """
    found = None if options.precision == "fp32" else evidence.load(task, options.reports, options.weights)
    seen: dict[str, dict[str, Stack]] = {"image": pictures.stacks(task, options.pictures)}
    lines: list[parity.Line] = []
    models: dict[str, onnx.ModelProto] = {}
    for network in task.networks:
        with MESSAGES.status(f"{network.name}: converting"):
            model, reference = _graph(task, network, options.weights)
        with MESSAGES.status(f"{network.name}: measuring parity"):
            inputs = seen[network.reads]
            lines += parity.measure(network, model, reference, inputs)
            if network.masks and network.framework == "torch":
                for stack in inputs.values():
                    parity.check_rounding(network, model, from_torch.PROBABILITY, stack)
            if network.masks:
                seen |= {mask.name: _answers(model, network, mask.name, inputs) for mask in network.masks}
        models[network.name] = model
    Console().print(table(lines))
    parity.enforce(lines)
    measured: dict[str, Ladder] = {}
    if found is not None:
        with MESSAGES.status("measuring precision") as status:
            measured = ladders.climb(task, models, options.precision, found, status.update)
        Console(width=140).print(ladders.table([row for each in measured.values() for row in each.rows]))
    return _converted(task, models, lines, measured, options)


def _converted(
    task: Task,
    models: Mapping[str, onnx.ModelProto],
    lines: list[parity.Line],
    measured: Mapping[str, Ladder],
    options: argparse.Namespace,
) -> Converted:
    made = Converted({}, {}, {name: each.choices for name, each in measured.items()})
    for network in task.networks:
        own = measured.get(network.name)
        graphs = {"model.onnx": models[network.name]} | (own.graphs if own else {})
        contents = {name: graph.SerializeToString() for name, graph in graphs.items()}
        judged = [line for line in lines if line.network == network.name]
        facts = card.facts(task, network, models[network.name], contents, judged, own, options.weights, options.reports)
        made.points.update({point["name"]: point["threshold"] for point in facts["operating_points"]})
        made.files.update({f"{network.name}/1/{name}": content for name, content in contents.items()})
        made.files[f"{network.name}/card.json"] = card.as_json(facts)
        made.files[f"{network.name}/card.md"] = card_page.as_markdown(facts)
    return made


def _graph(
    task: Task, network: Network, weights: Path
) -> tuple[onnx.ModelProto, Callable[[Stack], Mapping[str, npt.NDArray[np.float32]]]]:
    """The finished graph, and the framework's own answer to compare it with."""
    if network.framework == "torch":
        path = weights / network.file
        module = from_torch.load(path)

        def answer_torch(stack: Stack) -> Mapping[str, npt.NDArray[np.float32]]:
            with torch.no_grad():
                return {from_torch.PROBABILITY: module(torch.from_numpy(stack)).numpy()}

        return _finish(task, network, from_torch.convert(task, network, path), path), answer_torch
    path = weights / network.file
    if network.framework == "onnx":
        finished = _finish(task, network, from_onnx.convert(task, network, path), path)
        asis = from_onnx.unoptimised(path, network)
        judged = [value.name for value in finished.graph.output]
        return finished, lambda stack: {name: asis(stack)[name].astype(np.float32) for name in judged}
    _check_record(task, network, path)
    model = from_keras.load(task, network, path)
    explained = any(isinstance(answer, Heatmap) for answer in network.answers)

    def answer_keras(stack: Stack) -> Mapping[str, npt.NDArray[np.float32]]:
        answers = {"probabilities": np.asarray(from_keras.both(model(stack, training=False)))}
        return answers | ({"heatmap": gradcam.by_gradient(model, stack)} if explained else {})

    return _finish(task, network, from_keras.convert(task, network, path), path), answer_keras


def _check_record(task: Task, network: Network, path: Path) -> None:
    """A network that is served otherwise than trained would answer wrongly, and nobody would notice."""
    record = path.with_suffix(".json")
    if not path.exists() or not record.exists():
        return
    made = json.loads(record.read_text(encoding="utf-8"))
    seen = made.get("image", asdict(task.image))
    if seen != asdict(task.image):
        raise ExportError(
            f"{path} was trained on pictures prepared as {seen}; task {task.name} declares {asdict(task.image)}: train "
            "it again as declared, or declare it in tasks.py as it was trained."
        )
    if (made["network"], made.get("labels", list(task.labels))) != (network.name, list(task.labels)):
        raise ExportError(
            f"{record} is about {made['network']} with the classes {', '.join(made.get('labels', ()))}; task "
            f"{task.name} declares {network.name} with {', '.join(task.labels)}: it was trained for another task."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if made.get("weights_sha256", digest) != digest:
        raise ExportError(f"{record} is about another training than {path}: put the two of one training there.")


def _finish(task: Task, network: Network, model: onnx.ModelProto, weights: Path) -> onnx.ModelProto:
    return graph.finish(model, task, network, card.essentials(task, network, weights))


def _answers(model: onnx.ModelProto, network: Network, mask: str, inputs: Mapping[str, Stack]) -> dict[str, Stack]:
    probe = parity.session(model)
    return {
        source: np.concatenate([probe.run([mask], {network.reads: row[None]})[0] for row in stack])
        for source, stack in inputs.items()
    }


def table(lines: list[parity.Line]) -> Table:
    drawn = Table(title="parity: |onnx − framework|", box=None, title_justify="left", pad_edge=False)
    for name in ("network", "output", "pictures"):
        drawn.add_column(name)
    for name in ("batch", "largest", "allowed"):
        drawn.add_column(name, justify="right")
    drawn.add_column("")
    for line in lines:
        allowed = f"{line.tolerance.atol:g}" + (f" + {line.tolerance.rtol:g}·|v|" if line.tolerance.rtol else "")
        verdict = "holds" if line.holds else "[red]broken[/red]"
        drawn.add_row(
            line.network,
            line.output,
            f"{line.count} {line.pictures}",
            str(line.batch),
            f"{line.worst:.1e}",
            allowed,
            verdict,
        )
    return drawn
