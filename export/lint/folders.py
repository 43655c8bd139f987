"""What lies in a model's folder: versions, graphs, data of warm-ups, and files where nobody looks for them."""

from collections.abc import Iterator
from pathlib import Path

from export.lint.finding import Finding, listed
from export.lint.models import DERIVED, LFS, Config, Model, inside
from fovea import plan

READ_FURTHER = (".onnx", ".py")
NAME_INSIDE = "Name a file of the model's own folder, without a path out of it."


def check(model: Model) -> Iterator[Finding]:
    if "" in model.configs and not model.configs[""].lines and not model.versions and not _ignored(model):
        yield Finding(
            "model-empty",
            model.name,
            "",
            "Triton takes every folder here for a model, and this one has no config.pbtxt and no version folder.",
            "Move it out of the repository, or add both.",
        )
        return
    if not model.versions:
        yield Finding(
            "version-missing",
            model.name,
            "",
            "There is no version folder, without which Triton does not load the model, be it an ensemble.",
            f"mkdir {model.name}/1 and put the graph there; for an ensemble leave it empty (git wants a .gitkeep).",
        )
    yield from _misplaced(model)
    for config in model.configs.values():
        yield from _policy(model, config)
        yield from _graphs(model, config)
        yield from _data(model, config)


def _ignored(model: Model) -> list[Path]:
    """Folders that hold a graph and that Triton passes over, for their name is no version."""
    folders = (path for path in sorted(model.folder.iterdir()) if path.is_dir() and path.name not in DERIVED)
    others = (path for path in folders if path.name not in map(str, model.versions))
    return [path for path in others if path.name.isdigit() or any((path / name).exists() for name in DERIVED)]


def _misplaced(model: Model) -> Iterator[Finding]:
    for folder in _ignored(model):
        yield Finding(
            "version-ignored",
            f"{model.name}/{folder.name}",
            "",
            "Triton passes over version folders that are no number, or start with zero.",
            f"Rename it to {max(model.versions, default=0) + 1}, or move it out of the repository.",
        )
    for graph in DERIVED:
        if (model.folder / graph).exists():
            said = "A graph in the model's folder is never read: Triton looks in version folders."
            yield Finding("stray-file", f"{model.name}/{graph}", "", said, f"Move it to {model.name}/1/{graph}.")
    for version in model.versions:
        if (model.folder / str(version) / "config.pbtxt").exists():
            path = f"{model.name}/{version}/config.pbtxt"
            said = "A config in a version folder is never read: all versions share one."
            yield Finding("stray-file", path, "", said, f"Move it to {model.name}/config.pbtxt.")


def _policy(model: Model, config: Config) -> Iterator[Finding]:
    if not model.versions:
        return
    there = listed(map(str, model.versions))
    asked = [str(v) for v in config.message.version_policy.specific.versions if v not in model.versions]
    if asked:
        said = f"version_policy asks for {listed(asked)}, and there is {there}."
        yield config.finding(
            "version-policy", "version_policy", said, f"Add folder {asked[0]}, or ask for one of those that are there."
        )
    elif not model.served(config):
        said = f"version_policy asks for none of the versions that are there ({there})."
        cure = "Write latest { num_versions: 1 }, or take version_policy out."
        yield config.finding("version-policy", "version_policy", said, cure)


def graphs(model: Model, config: Config) -> Iterator[Path]:
    """The files that the served versions are to hold, inside the model's folder, there or not."""
    for version in model.served(config):
        for name in filter(inside, model.graph_names(config)):
            file = model.folder / str(version) / name
            if file.name == "model.xml" and not file.exists() and file.with_name("model.onnx").exists():
                file = file.with_name("model.onnx")  # OpenVINO reads ONNX as well
            # A backend may take a folder in place of the file, for models above 2 GB.
            yield file / "model.onnx" if file.is_dir() and file.suffix == ".onnx" else file


def _graphs(model: Model, config: Config) -> Iterator[Finding]:
    naming = ("default_model_filename", "cc_model_filenames", "backend", "platform")
    place = next((name for name in naming if name in config.lines), "")
    for name in model.graph_names(config):
        if not inside(name):
            yield config.finding("path-outside", place, f"{name!r} is no file in {model.name}/.", NAME_INSIDE)
    for file in graphs(model, config):
        path = f"{model.name}/{file.relative_to(model.folder)}"
        if file.exists():
            if file.is_file() and file.suffix not in READ_FURTHER:
                yield from _opened(file, path)
        elif config.variant and (file.suffix == ".plan" or file.name == plan.TENSORRT_GRAPH):
            to = "tensorrt" if file.suffix == ".plan" else "onnxruntime_tensorrt"
            cure = f"Make it, an engine on the machine that serves it: python -m export <task> --to {to}."
            yield config.finding("graph-not-built", place, f"{path} is not built.", cure)
        else:
            cure = "Put it there (python -m export <task> writes Fovea's own), or name the file that is there."
            yield config.finding("graph-missing", place, f"{path} is missing.", cure)


def pointer(path: str) -> Finding:
    return Finding(
        "lfs-pointer", path, "", "This is Git LFS's note of a file, not the file.", "git lfs pull fetches the file."
    )


def _opened(file: Path, path: str) -> Iterator[Finding]:
    try:
        with file.open("rb") as opened:
            start = opened.read(len(LFS))
    except OSError as error:
        said = f"It cannot be read ({error.strerror})."
        yield Finding("file-unreadable", path, "", said, "Give the user who serves the right to read it.")
        return
    if start == LFS:
        yield pointer(path)


def _data(model: Model, config: Config) -> Iterator[Finding]:
    """Files of warm-ups and of a sequence's initial states."""
    named = [
        (f'model_warmup[{i}].inputs["{key}"].input_data_file', f"warmup/{value.input_data_file}")
        for i, warmup in enumerate(config.message.model_warmup)
        for key, value in sorted(warmup.inputs.items())
        if value.input_data_file
    ]
    named += [
        (f"sequence_batching.state[{i}].initial_state[{j}].data_file", f"initial_state/{initial.data_file}")
        for i, state in enumerate(config.message.sequence_batching.state)
        for j, initial in enumerate(state.initial_state)
        if initial.data_file
    ]
    for name, file in named:
        if not inside(file.partition("/")[2]):
            yield config.finding("path-outside", name, f"{file!r} is no file in {model.name}/.", NAME_INSIDE)
        elif not (model.folder / file).is_file():
            said = f"{model.name}/{file} is missing, and Triton does not load the model without it."
            yield config.finding("warmup-missing", name, said, "Put the file there, or write zero_data: true.")
