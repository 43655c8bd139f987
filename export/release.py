"""A release: everything that serves a task, copied once, under names made of its content, and never changed again."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from fovea import releases, repository
from fovea.errors import ReleaseError
from fovea.fingerprint import preprocessing
from fovea.releases import Content, Files, Release
from fovea.spec import Task

Model = Mapping[str, bytes]
"""Path below a model's folder → what the file holds."""


def make(task: Task, source: Path) -> tuple[Release, dict[str, Model]]:
    """The release of what `source`, a model repository, holds for `task`; and its models, by the names of its manifest.

    Raises:
        ReleaseError: a config cannot be read, or the repository is being written.
        ServerError: something is missing there.
    """
    repository.check(task, source)
    before = _times(task, source)
    seen = preprocessing(task.image)
    models: dict[str, Model] = {}
    names: dict[str, str] = {}
    for step in _steps(task, source):
        says = {"preprocessing": seen} if step == repository.preprocess_name(task) else {}
        model = _read(source / step, says, {})
        names[step] = f"{step}-{releases.digest(_table(model))[:12]}"
        models[names[step]] = model
    models[task.name] = _read(source / task.name, {}, names)
    if _times(task, source) != before:
        raise ReleaseError(f"{source} was changed while it was read: release {task.name} again.")
    manifest = {name: _table(model) for name, model in models.items()}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Release(task.name, created, str(source), version("fovea"), seen, manifest), models


def store(folder: Path, control: Path, release: Release, models: Mapping[str, Model]) -> None:
    """Put a release into the folder of releases: each model is made in `control` and moved to its place when whole.

    What is already there is left as it is, unless it is damaged: then it is replaced.

    Raises:
        OSError: the folder cannot be written; nothing stands in it that is not whole.
    """
    stage = control / "stage"
    shutil.rmtree(stage, ignore_errors=True)  # of someone who was killed: nobody else publishes meanwhile
    try:
        for name in release.steps:
            with suppress(ReleaseError):
                releases.verify_model(folder / name, release.models[name], release.task)
                continue
            _write(stage / name, models[name])
            _move(stage, folder / name)
        with suppress(ReleaseError):
            releases.verify(folder, release.task, release.number)
            return
        manifest = releases.write(release).encode()
        _write(stage / release.name, {**models[release.task], releases.MANIFEST: manifest})
        (stage / release.name / release.number).mkdir()  # the version folder that Triton wants
        _move(stage, folder / release.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move(stage: Path, place: Path) -> None:
    """Put a whole model in its place, and what was there aside."""
    if place.exists():
        place.rename(stage / f"damaged-{place.name}")
    (stage / place.name).rename(place)


def _steps(task: Task, source: Path) -> list[str]:
    """The models that the ensemble runs, in order and once each."""
    configs = [_parse(path) for path in releases.files(source / task.name) if path.suffix == ".pbtxt"]
    return list(dict.fromkeys(step.model_name for config in configs for step in config.ensemble_scheduling.step))


def _read(folder: Path, says: Mapping[str, str], names: Mapping[str, str]) -> Model:
    """A model's files; its configs without a name, with `says` among their parameters and their steps renamed."""
    if not folder.is_dir():
        raise ReleaseError(f"{folder} is missing, a step of its ensemble: export the task again.")
    model: dict[str, bytes] = {}
    for path in releases.files(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix != ".pbtxt":
            model[name] = path.read_bytes()
            continue
        config = _parse(path)
        config.ClearField("name")  # Triton then takes the folder's
        for parameter, value in says.items():
            config.parameters[parameter].string_value = value
        for step in config.ensemble_scheduling.step:
            step.model_name, step.model_version = names[step.model_name], -1
        model[name] = str(text_format.MessageToString(config)).encode()
    return model


def _parse(path: Path) -> pb.ModelConfig:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path} is no Triton config ({error}): restore it, or export the task again.") from None


def _table(model: Model) -> Files:
    return {name: Content(len(data), hashlib.sha256(data).hexdigest()) for name, data in sorted(model.items())}


def _times(task: Task, source: Path) -> dict[Path, tuple[int, int]]:
    """Which files there are, and when they were put there."""
    folders = (source / name for name in (*_steps(task, source), task.name))
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for folder in folders for path in releases.files(folder)
    }


def _write(folder: Path, model: Model) -> None:
    for name, data in model.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # it must not be found cut off after a power failure either
        path.chmod(0o444)
