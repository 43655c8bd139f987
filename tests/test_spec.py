"""What every declaration must keep, so that graphs, configs and answers can be derived from it."""

from dataclasses import replace
from itertools import chain

import pytest

from fovea import repository
from fovea.errors import UsageError
from fovea.spec import FRAME, Classes, Heatmap, Network, Task
from fovea.tasks import TASKS, task_named

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
every_network = pytest.mark.parametrize(
    ("task", "network"),
    [pytest.param(task, network, id=network.name) for task in TASKS.values() for network in task.networks],
)


def earlier(task: Task, network: Network) -> tuple[Network, ...]:
    return task.networks[: task.networks.index(network)]


def later(task: Task, network: Network) -> tuple[Network, ...]:
    return task.networks[task.networks.index(network) + 1 :]


def test_every_folder_of_the_repository_has_one_owner() -> None:
    names = list(chain.from_iterable(repository.models(task) for task in TASKS.values()))
    assert len(names) == len(set(names))


def test_a_task_is_found_by_its_own_name_and_an_unknown_one_lists_those_there_are() -> None:
    assert all(task_named(name) is task and task.name == name for name, task in TASKS.items())
    with pytest.raises(UsageError, match="'cataract': choose one of " + ", ".join(TASKS)):
        task_named("cataract")


@every_network
def test_a_network_reads_the_image_or_the_mask_of_an_earlier_one(task: Task, network: Network) -> None:
    masks = {mask.name for before in earlier(task, network) for mask in before.masks}
    assert network.reads in {"image"} | masks


@every_network
def test_the_shape_a_network_reads_is_that_of_its_source(task: Task, network: Network) -> None:
    if network.reads == "image":
        assert task.input_shape(network) == (task.image.side, task.image.side, 3)
        assert task.source(network) == "pixels"
    else:
        (mask,) = [mask for before in earlier(task, network) for mask in before.masks if mask.name == network.reads]
        assert task.input_shape(network) == mask.tensor.shape
        assert task.source(network) == mask.onward.name


@every_network
def test_a_mask_that_is_read_later_leaves_its_graph_twice_and_the_task_once(task: Task, network: Network) -> None:
    made = [tensor.name for tensor in task.graph_outputs(network)]
    asked = [tensor.name for tensor in task.outputs]
    for mask in network.masks:
        read = any(after.reads == mask.name for after in later(task, network))
        assert (mask.onward.name in made) is read
        assert made.count(mask.name) == asked.count(mask.name) == 1
        assert mask.onward.name not in asked
        assert (mask.onward.dtype, mask.onward.shape) == (mask.tensor.dtype, mask.tensor.shape)


def test_a_mask_that_nothing_reads_has_no_twin() -> None:
    task = TASKS["retina"]
    alone = replace(task, networks=task.networks[:1])
    assert [tensor.name for tensor in task.graph_outputs(task.networks[0])] == ["vessels", "vessels_onward"]
    assert [tensor.name for tensor in alone.graph_outputs(alone.networks[0])] == ["vessels"]


@every_task
def test_a_client_can_ask_for_every_answer_and_the_frame_each_by_its_own_name(task: Task) -> None:
    names = [tensor.name for tensor in task.outputs]
    assert len(names) == len(set(names))
    assert names == [answer.tensor.name for answer in task.answers] + [FRAME.name]
    assert not {"image", "pixels"} & set(names)


@every_task
def test_probabilities_are_as_many_as_the_labels_and_labels_fit_the_configs_list(task: Task) -> None:
    classes = [answer for answer in task.answers if isinstance(answer, Classes)]
    assert [answer.tensor.shape for answer in classes] == [(len(task.labels),)] * len(classes)
    assert len(set(task.labels)) == len(task.labels)
    assert not any("," in label or "\n" in label for label in task.labels)  # the ensemble carries them joined by commas


@every_task
def test_a_heat_map_is_declared_only_beside_classes(task: Task) -> None:
    for network in task.networks:
        kinds = [type(answer) for answer in network.answers]
        assert Heatmap not in kinds or Classes in kinds
    assert task.heatmap is None or task.heatmap in task.answers


@every_task
def test_an_ensemble_takes_no_larger_batch_than_any_of_its_steps(task: Task) -> None:
    assert 1 <= task.max_batch == min(network.max_batch for network in task.networks)
    first, *others = task.networks
    assert replace(task, networks=(replace(first, max_batch=1), *others)).max_batch == 1


@every_network
def test_parity_has_a_tolerance_that_a_wrong_network_would_break(task: Task, network: Network) -> None:
    assert 0 < network.tolerance.atol <= 1e-3
    assert 0 <= network.tolerance.rtol <= 1e-3
