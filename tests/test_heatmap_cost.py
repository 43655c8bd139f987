"""What the heat map costs, on the committed graphs: the network with it against the same network without."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import REPOSITORY

from export import parity
from fovea.repository import graph_path
from fovea.spec import Heatmap, Network, Task
from fovea.tasks import TASKS

ROUNDS = 40
EXPLAINED = [
    pytest.param(task, network, id=network.name)
    for task in TASKS.values()
    for network in task.networks
    if any(isinstance(answer, Heatmap) for answer in network.answers)
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "network"), EXPLAINED)
def test_a_heat_map_costs_at_most_5_percent_of_the_networks_latency(
    task: Task, network: Network, tmp_path: Path
) -> None:
    """Interleaved, because the machine's pace changes; median differences, of the calmest of three spells."""
    whole = graph_path(REPOSITORY, network)
    bare = tmp_path / "bare.onnx"
    onnx.utils.extract_model(whole, bare, [network.reads], ["probabilities"])
    with_map, without = (parity.session(onnx.load(path)) for path in (whole, bare))
    picture = np.random.default_rng(1).integers(0, 256, (1, *task.input_shape(network)), np.uint8)

    def seconds(session: Any) -> float:
        began = time.perf_counter()
        session.run(None, {network.reads: picture})
        return time.perf_counter() - began

    for session in (with_map, without):
        for _ in range(5):
            seconds(session)
    dearer = []
    for _ in range(3):
        pairs = np.array([(seconds(with_map), seconds(without)) for _ in range(ROUNDS)])
        dearer.append(float(np.median(pairs[:, 0] - pairs[:, 1]) / np.median(pairs[:, 1])))
        print(f"{network.name}: {1e3 * np.median(pairs[:, 1]):.2f} ms, heat map {100 * dearer[-1]:+.1f} %")
    assert min(dearer) <= 0.05
