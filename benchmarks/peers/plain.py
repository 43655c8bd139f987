"""The repository that a peer's user has without our precision guard: every network's fp32 graph, on ONNX Runtime."""

import shutil
from pathlib import Path

from fovea.errors import ServerError
from fovea.repository import Hardware, configured_cores, files, graph_path, operating_points
from fovea.spec import Task


def is_plain(task: Task, repository: Path, hardware: Hardware) -> bool:
    """Whether `hardware` serves just that already."""
    return hardware == "cpu" and all(
        graph_path(repository, network, hardware) == graph_path(repository, network) for network in task.networks
    )


def rendered(task: Task, repository: Path, folder: Path) -> Path:
    """Write it to `folder`, which is made anew; the committed repository stays as it is.

    Raises:
        ServerError: an fp32 graph is missing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in files(task, configured_cores(task, repository), operating_points(task, repository)).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for network in task.networks:
        graph = graph_path(repository, network)
        if not graph.exists():
            raise ServerError(f"{graph}, the fp32 graph, is missing: python -m export {task.name} writes it.")
        target = graph_path(folder, network)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(graph, target)
    return folder
