"""All rules over a whole repository."""

from collections.abc import Iterator
from pathlib import Path

from export.lint import configs, ensembles, folders, graphs, hosts, labels, models, scripts, weights
from export.lint.finding import Finding
from export.lint.graph_file import Graph
from export.lint.models import Config, Model
from export.lint.signatures import Signature, signature
from export.lint.triton import Triton

READ_AS_ONNX = ("onnxruntime", "openvino")


def lint(repository: Path, triton: Triton, cores: int) -> tuple[int, list[Finding]]:
    """How many models there are, and every finding, in the order of their files and lines.

    Raises:
        UsageError: the repository is no folder, or holds no model.
    """
    found, findings = models.read(repository)
    outlines: dict[Path, Graph | None] = {}
    for model in found:
        findings += folders.check(model)
        for config in model.configs.values():
            findings += configs.check(model, config, triton)
            findings += labels.check(model, config)
            findings += hosts.check(model, config, cores)
            findings += _files(model, config, triton, outlines)

    def sign(model: Model, config: Config) -> Signature:
        read = [outlines[file] for file in folders.graphs(model, config) if outlines.get(file)]
        return signature(model, config, read[-1] if read else None)

    by_name = {model.name: model for model in found}
    for model in found:
        said: set[tuple[str, str, str]] = set()
        for variant in ensembles.variants(model, by_name):
            new = list(ensembles.check(model, variant, by_name, sign, triton))
            findings += [finding for finding in new if _key(finding) not in said]
            said |= {_key(finding) for finding in new}  # what is wrong in one variant is not said again of the next
    return len(found), sorted(dict.fromkeys(findings), key=_place)


def _key(finding: Finding) -> tuple[str, str, str]:
    return finding.rule, finding.path, finding.field


def _place(finding: Finding) -> tuple[str, int, str, str]:
    return finding.path, finding.line or 0, finding.rule, finding.field


def _files(model: Model, config: Config, triton: Triton, outlines: dict[Path, Graph | None]) -> Iterator[Finding]:
    """The files that a config serves: each is read once, however many configs name it."""
    backend = model.backend(config)
    for file in folders.graphs(model, config):
        if not file.exists():
            continue
        path = f"{model.name}/{file.relative_to(model.folder)}"
        if backend == "python" and file.suffix == ".py":
            yield from scripts.check(file, path)
        if backend not in READ_AS_ONNX or file.suffix != ".onnx":
            continue
        if file not in outlines:
            outlines[file], broken = weights.read(file, path)
            yield from broken
        graph = outlines[file]
        if graph is not None:
            library = bool(config.message.model_operations.op_library_filename)
            native = backend == "onnxruntime"
            yield from weights.check(graph, file, path, triton, native=native, library=library)
            yield from graphs.check(config, graph, path, native=native)
