"""A repository as the linter sees it: models, their versions, and their configs, one for each variant of hardware."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export.lint import text
from export.lint.finding import Finding
from fovea.errors import UsageError

CONFIG_BYTES = 2**20
"""Configs are kilobytes; a larger one is something else, or an attack on its reader."""
LONGEST_NAME = 256
FILES = {
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "python": "model.py",
    "tensorrt": "model.plan",
    "pytorch": "model.pt",
}
"""Backend → the file it loads unless `default_model_filename` names another; other backends have files of their own."""
PLATFORMS = {
    "onnxruntime_onnx": ("onnxruntime", "model.onnx"),
    "tensorrt_plan": ("tensorrt", "model.plan"),
    "pytorch_libtorch": ("pytorch", "model.pt"),
    "torch_aoti": ("pytorch", "model.pt2"),
    "tensorflow_graphdef": ("tensorflow", "model.graphdef"),
    "tensorflow_savedmodel": ("tensorflow", "model.savedmodel"),
}
"""Platform, the older way to name a backend → the backend and its file."""
LFS = b"version https://git-lfs"
"""How a Git LFS pointer starts, which stands where the file should."""
DERIVED = {"model.savedmodel": "tensorflow", "model.graphdef": "tensorflow"} | {f: b for b, f in FILES.items()}
"""File in a version folder → the backend that Triton derives where the config names none."""


@dataclass(frozen=True)
class Config:
    """`message` is a `ModelConfig`; `path` that of the file, or of the model's folder where there is no file."""

    path: str
    variant: str
    message: Any
    lines: Mapping[str, int] = field(default_factory=dict)

    def finding(self, rule: str, name: str, said: str, cure: str) -> Finding:
        """About the field `name`; the line is that of the nearest field around it that is written."""
        around = name
        while around and around not in self.lines:
            around = around[: max(around.rfind("."), around.rfind("["), 0)]
        return Finding(rule, self.path, name, said, cure, self.lines.get(around))


@dataclass(frozen=True)
class Model:
    """`configs`: variant → config; "" is config.pbtxt. A config that cannot be read is left out."""

    name: str
    folder: Path
    versions: tuple[int, ...]
    configs: Mapping[str, Config]

    def config(self, variant: str) -> Config | None:
        """What Triton takes with `--model-config-name=<variant>`."""
        return self.configs.get(variant, self.configs.get(""))

    def served(self, config: Config) -> tuple[int, ...]:
        """The versions that are there and that the version policy asks for."""
        policy = config.message.version_policy
        if policy.HasField("all"):
            return self.versions
        if policy.HasField("specific"):
            return tuple(version for version in self.versions if version in policy.specific.versions)
        newest = policy.latest.num_versions if policy.HasField("latest") else 1
        return self.versions[-newest:] if newest else ()

    def backend(self, config: Config) -> str:
        """As Triton derives it: "ensemble", a backend's name, or "" where nothing tells."""
        message = config.message
        if message.platform == "ensemble" or message.HasField("ensemble_scheduling"):
            return "ensemble"
        if message.backend or message.platform:
            return str(message.backend or PLATFORMS.get(message.platform, (message.platform, ""))[0])
        if message.default_model_filename:
            return DERIVED.get(message.default_model_filename, "")
        inside = self.folder / str(self.versions[0]) if self.versions else None
        found = [backend for name, backend in DERIVED.items() if inside and (inside / name).exists()]
        return found[0] if found else self.name.partition(".")[2]

    def graph_names(self, config: Config) -> tuple[str, ...]:
        """The files that the served versions must hold; none where the backend's own files are not known here."""
        message, backend = config.message, self.backend(config)
        per_device = tuple(dict.fromkeys(message.cc_model_filenames.values()))
        if message.default_model_filename:
            return (message.default_model_filename, *per_device)
        if per_device or backend == "ensemble" or message.runtime:
            return per_device
        named = PLATFORMS.get(message.platform, ("", FILES.get(backend, "")))[1]
        return (named,) if named else ()


def read(repository: Path) -> tuple[list[Model], list[Finding]]:
    """Every model, and what is wrong with the text of the configs.

    Raises:
        UsageError: the repository is no folder, or holds no model.
    """
    if not repository.is_dir():
        raise UsageError(f"{repository} is no folder: give a model repository, such as model_repository/.")
    if not os.access(repository, os.R_OK | os.X_OK):
        raise UsageError(f"{repository} cannot be read: give its user the right to.")
    folders = sorted(path for path in repository.iterdir() if path.is_dir() and _counts(path.name))
    closed = [path for path in folders if not _readable(path)]
    folders = [path for path in folders if path not in closed]
    if not any((folder / "config.pbtxt").exists() or _versions(folder) for folder in folders):
        raise UsageError(
            f"{repository} holds no model: give the folder whose folders hold a config.pbtxt or a version folder."
        )
    models: list[Model] = []
    cure = "Give the user who serves the right to read it."
    findings = [Finding("file-unreadable", path.name, "", "The folder cannot be read.", cure) for path in closed]
    for folder in folders:
        model, said = _model(folder)
        models.append(model)
        findings += said
    return models, findings


def _readable(folder: Path) -> bool:
    """Whether the folder and those in it can be listed and entered."""
    return os.access(folder, os.R_OK | os.X_OK) and all(
        os.access(path, os.R_OK | os.X_OK) for path in folder.iterdir() if path.is_dir()
    )


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _versions(folder: Path) -> tuple[int, ...]:
    """Triton counts folders named by a number that does not start with zero."""
    names = (path.name for path in folder.iterdir() if path.name.isascii() and path.name.isdigit() and path.is_dir())
    return tuple(sorted(int(name) for name in names if not name.startswith("0") and len(name) < 19))


def _model(folder: Path) -> tuple[Model, list[Finding]]:
    configs: dict[str, Config] = {}
    findings: list[Finding] = []
    main = folder / "config.pbtxt"
    files = {"": main} if main.exists() or main.is_symlink() else {}
    files |= {path.stem: path for path in sorted((folder / "configs").glob("*.pbtxt"))}
    for variant, file in files.items():
        parsed, said = _config(file, f"{folder.name}/{file.relative_to(folder)}", variant)
        findings += said
        if parsed is not None:
            configs[variant] = parsed
    if "" not in files:
        configs[""] = Config(folder.name, "", pb.ModelConfig())  # Triton then completes what it can from the graph
    return Model(folder.name, folder, _versions(folder), configs), findings


def _config(file: Path, path: str, variant: str) -> tuple[Config | None, list[Finding]]:
    content = contents(file, CONFIG_BYTES)
    if isinstance(content, str):
        return None, [Finding("file-unreadable", path, "", content, "Put the config there as a plain text file.")]
    try:
        written = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return None, [Finding("config-syntax", path, "", "The file is not UTF-8.", "Save it as UTF-8.", line)]
    scanned = text.scan(written, pb.ModelConfig.DESCRIPTOR, path)
    if any(finding.rule in ("config-syntax", "unknown-value", "two-schedulers") for finding in scanned.findings):
        return None, scanned.findings
    try:
        message = text_format.Parse(written, pb.ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        said = str(error).partition(" : ")[2] or str(error)
        cure = "Correct that line: fields are written as in Triton's model_config.proto."
        broken = Finding("config-syntax", path, "", said.rstrip(".") + ".", cure, error.GetLine())
        return None, [*scanned.findings, broken]
    return Config(path, variant, message, scanned.lines), scanned.findings


def contents(file: Path, most: int) -> bytes | str:
    """The bytes of a regular file of at most `most` bytes, or the sentence that says why not."""
    if not file.is_file():
        return f"{file.name} is no regular file." if file.exists() else f"{file.name} points to nothing."
    if file.stat().st_size > most:
        return f"{file.name} has {file.stat().st_size:,} bytes, and at most {most:,} are read."
    try:
        return file.read_bytes()
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})."


def inside(name: str) -> bool:
    """Whether a name, as it is written, stays in its folder; what is there may be a link to a store elsewhere."""
    possible = "\0" not in name and len(name.encode()) < LONGEST_NAME
    return possible and not os.path.isabs(name) and os.path.normpath(name).split("/")[0] != ".."
