"""An ensemble against its steps, as Triton's core compares them: the order of steps means nothing, the tensors all.

Sources: ValidateEnsembleSchedulingConfig and ensemble_utils.cc of triton-inference-server/core, and Triton 2.51 itself,
which was asked to load every fault named here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from export.lint.dataflow import Flow, flow_findings
from export.lint.finding import Finding, listed, shaped
from export.lint.graphs import shape
from export.lint.models import Config, Model
from export.lint.signatures import Signature, Tensor
from export.lint.triton import QUEUE_LIMIT_SINCE, Triton

Sign = Callable[[Model, Config], Signature]


@dataclass(frozen=True)
class Node:
    """A tensor of the ensemble, as `who` declares it."""

    who: str
    tensor: Tensor
    batched: bool

    def __str__(self) -> str:
        kind = pb.DataType.Name(self.tensor.kind).removeprefix("TYPE_")
        return f"{kind} {shaped(self.tensor.dims)}" if self.tensor.dims is not None else kind


def check(model: Model, variant: str, models: Mapping[str, Model], sign: Sign, triton: Triton) -> Iterator[Finding]:
    """The ensemble `model` as Triton sees it with `--model-config-name=<variant>`; nothing for other models."""
    config = model.config(variant)
    if config is None or model.backend(config) != "ensemble":
        return
    yield from _platform(config)
    if model.name in _below(model.name, variant, models):
        said = f"{model.name} is a step of itself, directly or through its steps."
        yield config.finding("ensemble-recursion", "ensemble_scheduling", said, "Break the circle.")
        return
    steps: list[tuple[Any, str, Signature | None]] = []
    for i, step in enumerate(config.message.ensemble_scheduling.step):
        place = f"ensemble_scheduling.step[{i}]"
        known = models.get(step.model_name)
        yield from _step(config, place, step, known, variant, models)
        of_step = known.config(variant) if known else None
        signed = sign(known, of_step) if known and of_step else None
        steps.append((step, place, signed))
        if signed:
            yield from _maps(config, place, step, signed)
        if of_step and triton.minor < QUEUE_LIMIT_SINCE and not _only_first(config, step):
            yield from _queue(of_step, config, triton)
    if steps:
        yield from flow_findings(Flow.of(config.message), config)
        yield from _agreement(config, steps)


def variants(model: Model, models: Mapping[str, Model]) -> list[str]:
    """Under which names the ensemble may look different: its own variants and those of its steps."""
    config = model.configs.get("")
    steps = config.message.ensemble_scheduling.step if config else ()
    names = set(model.configs).union(*(models[s.model_name].configs for s in steps if s.model_name in models))
    return ["", *sorted(names - {""})]


def _platform(config: Config) -> Iterator[Finding]:
    message = config.message
    if message.platform != "ensemble":
        said = f"ensemble_scheduling is given, and platform is {message.platform!r}."
        yield config.finding("ensemble-platform", "platform", said, 'Write platform: "ensemble".')
    if message.backend:
        said = f"An ensemble has no backend, and here it is {message.backend!r}."
        yield config.finding("ensemble-platform", "backend", said, "Take backend out.")
    if not message.ensemble_scheduling.step:
        said = "An ensemble without steps is nothing."
        yield config.finding("ensemble-platform", "ensemble_scheduling", said, "Write ensemble_scheduling { step … }.")
    given = {
        "instance_group": len(message.instance_group),
        "model_warmup": len(message.model_warmup),
        "optimization": message.HasField("optimization"),
    }
    for name in (name for name, there in given.items() if there):
        said = f"An ensemble cannot have {name}: Triton does not load it."
        yield config.finding("ensemble-settings", name, said, "Take it out, and write it in the steps' own configs.")


def _below(name: str, variant: str, models: Mapping[str, Model]) -> set[str]:
    """The models that an ensemble's steps are made of, at any depth."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        model = models.get(waiting.pop())
        config = model.config(variant) if model else None
        steps = {step.model_name for step in config.message.ensemble_scheduling.step} if config else set()
        waiting += steps - found
        found |= steps
    return found


def _step(
    config: Config, place: str, step: Any, known: Model | None, variant: str, models: Mapping[str, Model]
) -> Iterator[Finding]:
    missing = [name for name in ("model_name", "input_map", "output_map") if not getattr(step, name)]
    if missing:
        said = f"The step has no {' and no '.join(missing)}."
        yield config.finding("step-incomplete", place, said, f"Write {missing[0]}, or take the step out.")
    if known is None:
        if step.model_name:
            said = f"There is no model {step.model_name} in the repository; there is {listed(models)}."
            cure = "Write a name that is there, or add the model."
            yield config.finding("step-model", f"{place}.model_name", said, cure)
        return
    of_step = known.config(variant)
    if step.model_version == 0:
        said = "model_version is not written, which Triton takes for version 0, which cannot be."
        yield config.finding("step-version", place, said, "Write model_version: -1 for the newest.")
    elif of_step and known.versions and step.model_version not in (-1, *known.served(of_step)):
        there = listed(map(str, known.served(of_step)))
        said = f"Version {step.model_version} of {known.name} is not served; served is {there}."
        cure = "Write model_version: -1 for the newest, or let its version_policy serve that one."
        yield config.finding("step-version", f"{place}.model_version", said, cure)


def _maps(config: Config, place: str, step: Any, signed: Signature) -> Iterator[Finding]:
    most = config.message.max_batch_size
    if 0 < signed.batch < most:
        said = f"max_batch_size is {most}, and {signed.path} takes {signed.batch} at most."
        cure = f"Write max_batch_size: {signed.batch}, or raise that of the step."
        yield config.finding("ensemble-batch", "max_batch_size", said, cure)
    sides = (("input", step.input_map, signed.inputs), ("output", step.output_map, signed.outputs))
    for side, mapped, tensors in sides:
        for name in sorted(mapped) if tensors is not None else ():
            if tensors is not None and name not in tensors:
                said = f"{signed.path} has no {side} {name}; it has {listed(tensors)}."
                cure = "The key is the step's own name, the value the ensemble's: write one of those names."
                yield config.finding(f"step-{side}-unknown", f'{place}.{side}_map["{name}"]', said, cure)
    needed = [name for name, tensor in (signed.inputs or {}).items() if not tensor.optional]
    for name in (name for name in needed if name not in step.input_map):
        said = f"{signed.path} needs input {name}, which is not mapped."
        yield config.finding("step-input-missing", place, said, f'Write input_map {{ key: "{name}" value: … }}.')


def _only_first(config: Config, step: Any) -> bool:
    """Whether every request enters by this step alone: refused there, it ends at once (measured with Triton 2.51)."""
    given = {tensor.name for tensor in config.message.input}
    first = [each for each in config.message.ensemble_scheduling.step if set(each.input_map.values()) <= given]
    return first == [step]


def _queue(of_step: Config, ensemble: Config, triton: Triton) -> Iterator[Finding]:
    batching = of_step.message.dynamic_batching
    policies = {"dynamic_batching.default_queue_policy": batching.default_queue_policy} | {
        f"dynamic_batching.priority_queue_policy[{level}]": policy
        for level, policy in sorted(batching.priority_queue_policy.items())
    }
    for name, policy in policies.items():
        if policy.max_queue_size:
            said = f"When this queue is full, {ensemble.path} hangs for ever in {triton}."
            cure = f"Take max_queue_size out, or serve with Triton 2.{QUEUE_LIMIT_SINCE} or later."
            yield of_step.finding("queue-limit", f"{name}.max_queue_size", said, cure)


def _agreement(config: Config, steps: list[tuple[Any, str, Signature | None]]) -> Iterator[Finding]:
    """Makers first, then readers: each is compared with the first that declared the tensor."""
    batched = config.message.max_batch_size > 0
    nodes = {t.name: Node(config.path, Tensor(t.data_type, shape(t)), batched) for t in config.message.input}
    uses: list[tuple[str, str, str, Node]] = []
    for side in ("output", "input"):
        for step, place, signed in steps:
            tensors = (signed.outputs if side == "output" else signed.inputs) if signed else None
            mapped = step.output_map if side == "output" else step.input_map
            for name, tensor in sorted(mapped.items()):
                if signed and tensors and name in tensors:
                    node = Node(signed.path, tensors[name], signed.batch > 0)
                    uses.append((f'{place}.{side}_map["{name}"]', tensor, name, node))
    for i, t in enumerate(config.message.output):
        node = Node(config.path, Tensor(t.data_type, shape(t)), batched)
        uses.append((f"output[{i}]", t.name, t.name, node))
    for place, tensor, name, node in uses:
        first = nodes.setdefault(tensor, node)
        if first is node:
            continue
        said = f"{tensor} is {first} in {first.who}, and {node} as {name} in {node.who}."
        cure = f"Make both {first} or both {node}."
        if first.tensor.kind != node.tensor.kind and pb.TYPE_INVALID not in (first.tensor.kind, node.tensor.kind):
            yield config.finding("step-data-type", place, said, cure)
        elif not _fits(first, node):
            yield config.finding("step-dims", place, said, cure)


def _fits(first: Node, second: Node) -> bool:
    """Equal where neither is free, either as they are or with the batch of those that have one."""
    a, b = first.tensor.dims, second.tensor.dims
    if a is None or b is None or _equal(a, b):
        return True
    return _equal((-1,) * first.batched + a, (-1,) * second.batched + b)


def _equal(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) and all(-1 in pair or pair[0] == pair[1] for pair in zip(a, b, strict=True))
