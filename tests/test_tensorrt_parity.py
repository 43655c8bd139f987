"""What an engine is tuned for, and how its answers are compared."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from small_graphs import CLASSIFIER, UNET, classifier, unet

from export import parity, tensorrt_parity
from export.tensorrt_parity import ALLOWED
from fovea.errors import ParityError
from fovea.spec import Network, Task
from fovea.tasks import TASKS

PAIRS = [(task, network) for task in TASKS.values() for network in task.networks]


@pytest.mark.parametrize(("task", "network"), [pytest.param(*pair, id=pair[1].name) for pair in PAIRS])
def test_profiles_span_one_to_the_largest_batch_of_what_the_network_reads(task: Task, network: Network) -> None:
    least, typical, largest = task.profile(network)
    assert (least[0], typical[0], largest[0]) == (1, network.max_batch // 2, network.max_batch)
    assert {least[1:], typical[1:], largest[1:]} == {task.input_shape(network)}


@pytest.mark.parametrize(("largest", "batches"), [(1, (1, 1, 1)), (2, (1, 1, 2)), (3, (1, 1, 3)), (8, (1, 4, 8))])
def test_small_batches_have_a_profile_too(largest: int, batches: tuple[int, int, int]) -> None:
    assert replace(UNET, max_batch=largest).batches == batches
    assert batches == tuple(sorted(batches))


def test_a_heat_map_is_compared_where_both_find_the_same_class() -> None:
    expected = {"probabilities": np.array([[0.6, 0.4], [0.51, 0.49]]), "heatmap": np.ones((2, 2, 2))}
    found = {
        "probabilities": np.array([[0.6, 0.4], [0.49, 0.51]]),
        "heatmap": np.stack([np.ones((2, 2)), np.zeros((2, 2))]),
    }
    assert tensorrt_parity.difference("heatmap", found, expected) == 0
    found["heatmap"][0] += 0.5
    assert tensorrt_parity.difference("heatmap", found, expected) == pytest.approx(0.5)
    found["heatmap"][0, 0, 0] = np.nan
    assert tensorrt_parity.difference("heatmap", found, expected) == np.inf
    assert tensorrt_parity.difference("probabilities", {"probabilities": np.ones((1, 2))}, expected) == np.inf


def run_of(model: onnx.ModelProto, reads: str) -> tensorrt_parity.Run:
    probe = parity.session(model)
    names = [value.name for value in model.graph.output]
    return lambda batch: dict(zip(names, probe.run(names, {reads: batch}), strict=True))


def pictures(network: Network, count: int) -> "dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]":
    depth = 3 if network is UNET else 1
    return {"noise": np.random.default_rng(0).integers(0, 256, (count, 32, 32, depth), np.uint8)}


@pytest.mark.parametrize("count", [1, 3, 8])
def test_an_engine_that_answers_the_same_holds_at_every_batch_size(count: int) -> None:
    """Also where there are fewer pictures than a batch takes."""
    for network, model in ((UNET, unet()), (CLASSIFIER, classifier())):
        judged = tensorrt_parity.measure(network, "fp32", model, run_of(model, network.reads), pictures(network, count))
        assert [line.output for line in judged] == [value.name for value in model.graph.output]
        assert all(line.holds and line.count == count and line.batches == (1, 2, 3, 4) for line in judged)
        tensorrt_parity.enforce(judged)


def test_an_engine_that_fails_at_one_batch_size_is_named_with_it() -> None:
    right = run_of(unet(), "image")

    def wrong(batch: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> tensorrt_parity.Arrays:
        return {name: answer + np.uint8(5 * (len(batch) == 3)) for name, answer in right(batch).items()}

    judged = tensorrt_parity.measure(UNET, "fp32", unet(), wrong, pictures(UNET, 6))
    assert {(line.batch, line.worst, line.allowed, line.holds) for line in judged} == {(3, 5.0, 1.0, False)}
    with pytest.raises(
        ParityError, match=r"retina_unet: vessels of the engine .* by 5 on noise at batch 3, more than 1"
    ):
        tensorrt_parity.enforce(judged)


def test_less_exact_precisions_are_allowed_more() -> None:
    for less, more in (("fp32", "fp16"), ("fp16", "int8")):
        assert ALLOWED[less].levels < ALLOWED[more].levels  # type: ignore[index]
        assert ALLOWED[less].probability <= ALLOWED[more].probability  # type: ignore[index]
        assert ALLOWED[less].heatmap < ALLOWED[more].heatmap  # type: ignore[index]
