"""The committed repository is what its tasks render, and its graphs are what its configs say."""

import json
import math
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from conftest import REPOSITORY
from google.protobuf import text_format
from onnx import TensorProto, shape_inference
from tritonclient.grpc import model_config_pb2 as pb

from export import fuse
from fovea import plan, repository
from fovea.errors import ServerError
from fovea.repository import graph_path
from fovea.spec import Network, Task, Tensor
from fovea.tasks import TASKS

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
every_network = pytest.mark.parametrize(
    ("task", "network"),
    [pytest.param(task, network, id=network.name) for task in TASKS.values() for network in task.networks],
)
PATHS = (b"/work", b"/home", b"/root", b"/tmp", b"site-packages")
OF_EXPORT = ("1/model.onnx", "card.json", "card.md", f"1/{plan.TENSORRT_GRAPH}", f"1/{plan.FILE}", f"1/{plan.NOTE}")
"""What `export` writes beside the rendered files; what is TensorRT's only where a user has made it."""
DTYPES = {"UINT8": "tensor(uint8)", "FP32": "tensor(float)"}


def rendered(task: Task, cores: int = repository.CORES) -> dict[str, pb.ModelConfig]:
    """Path → parsed config, of every config of the task."""
    texts = {name: text for name, text in repository.files(task, cores).items() if name.endswith(".pbtxt")}
    return {name: text_format.Parse(text, pb.ModelConfig()) for name, text in texts.items()}


def graph(network: Network) -> onnx.ModelProto:
    return onnx.load(graph_path(REPOSITORY, network))


@every_task
def test_the_committed_files_are_their_rendering_byte_for_byte(task: Task) -> None:
    points = repository.operating_points(task, REPOSITORY)
    choices = repository.recorded_choices(task, REPOSITORY)
    for name, text in repository.files(task, points=points, choices=choices).items():
        assert (REPOSITORY / name).read_bytes() == text.encode(), name


@every_task
def test_a_classifier_says_its_operating_points_to_clients_of_the_ensemble_as_its_card_does(task: Task) -> None:
    (config,) = [c for name, c in rendered(task).items() if name == f"{task.name}/config.pbtxt"]
    assert "operating_points" not in config.parameters
    points = repository.operating_points(task, REPOSITORY)
    assert list(points) == ["screening", "balanced", "confirmation"]
    assert 0 < points["screening"] <= points["balanced"] <= points["confirmation"] < 1
    text = (REPOSITORY / task.name / "config.pbtxt").read_text(encoding="utf-8")
    said = text_format.Parse(text, pb.ModelConfig()).parameters["operating_points"].string_value
    assert json.loads(said) == points


def test_the_repository_holds_nothing_that_no_task_declares() -> None:
    declared = {name for task in TASKS.values() for name in repository.files(task)}
    declared |= {f"{n.name}/{file}" for t in TASKS.values() for n in t.networks for file in OF_EXPORT}
    declared |= set(fuse.files(TASKS["retina"], REPOSITORY, repository.CORES))
    for task in TASKS.values():
        for name, choices in repository.recorded_choices(task, REPOSITORY).items():
            declared |= {f"{name}/1/{choice.graph}" for choice in choices.values()}
    found = {file.relative_to(REPOSITORY).as_posix() for file in REPOSITORY.rglob("*") if file.is_file()}
    assert {name for name in found if "__pycache__" not in name} <= declared


@every_task
def test_only_the_model_by_which_requests_enter_limits_its_queue(task: Task) -> None:
    """Triton before 2.66 may hang an ensemble in which a later step refuses."""
    limited = {name.split("/")[0] for name, text in repository.files(task).items() if "max_queue_size" in text}
    assert limited == {repository.preprocess_name(task)}


@every_task
def test_an_ensemble_is_neither_batched_nor_placed(task: Task) -> None:
    config = rendered(task)[f"{task.name}/config.pbtxt"]
    assert config.platform == "ensemble"
    assert not config.HasField("dynamic_batching")
    assert not config.instance_group


@every_task
def test_no_tensor_goes_both_to_the_client_and_to_a_later_step(task: Task) -> None:
    config = rendered(task)[f"{task.name}/config.pbtxt"]
    asked = {tensor.name for tensor in config.output}
    read = {tensor for step in config.ensemble_scheduling.step for tensor in step.input_map.values()}
    assert not asked & read


@every_task
def test_every_tensor_of_an_ensemble_is_made_once_and_before_it_is_read(task: Task) -> None:
    config = rendered(task)[f"{task.name}/config.pbtxt"]
    made = [tensor.name for tensor in config.input]
    for step in config.ensemble_scheduling.step:
        assert set(step.input_map.values()) <= set(made)
        made += step.output_map.values()
    assert len(made) == len(set(made))
    assert {tensor.name for tensor in config.output} <= set(made)


@every_task
def test_steps_take_and_give_what_the_models_behind_them_declare(task: Task) -> None:
    configs = {config.name: config for name, config in rendered(task).items() if name.endswith("/config.pbtxt")}
    for step in configs[task.name].ensemble_scheduling.step:
        model = configs[step.model_name]
        assert {tensor.name for tensor in model.input} == set(step.input_map)
        assert {tensor.name for tensor in model.output} == set(step.output_map)
        assert model.max_batch_size >= configs[task.name].max_batch_size


@every_task
@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
def test_on_a_cpu_instances_times_threads_are_the_cores(task: Task, cores: int) -> None:
    steps = [c for name, c in rendered(task, cores).items() if name.endswith("/config.pbtxt") and c.name != task.name]
    assert len(steps) == 1 + len(task.networks)
    for config in steps:
        (group,) = config.instance_group
        assert group.kind == pb.ModelInstanceGroup.KIND_CPU
        assert list(config.dynamic_batching.preferred_batch_size) == ([1] if config.backend == "python" else [])
        assert config.HasField("dynamic_batching") == (config.backend == "python")
        names = [] if config.backend == "python" else ["intra_op_thread_count", "inter_op_thread_count"]
        assert sorted(config.parameters) == (["task"] if config.backend == "python" else sorted(names))
        assert group.count * math.prod(int(config.parameters[name].string_value) for name in names) == cores


@every_network
def test_on_a_gpu_a_network_has_one_instance_and_batches_what_waits(task: Task, network: Network) -> None:
    config = rendered(task)[f"{network.name}/configs/gpu.pbtxt"]
    (group,) = config.instance_group
    assert (group.kind, group.count) == (pb.ModelInstanceGroup.KIND_GPU, 1)
    assert config.HasField("dynamic_batching")
    assert not config.parameters


@every_network
def test_hardware_changes_nothing_that_a_client_sees(task: Task, network: Network) -> None:
    plain = rendered(task)[f"{network.name}/config.pbtxt"]
    variants = [rendered(task)[f"{network.name}/configs/{name}.pbtxt"] for name in repository.HARDWARE]
    for config in (plain, *variants):
        for field in (
            "instance_group",
            "dynamic_batching",
            "parameters",
            "backend",
            "default_model_filename",
            "optimization",
        ):
            config.ClearField(field)
    assert all(config == plain for config in variants)


@every_network
def test_an_openvino_config_always_states_its_arithmetic(task: Task, network: Network) -> None:
    config = rendered(task)[f"{network.name}/configs/openvino.pbtxt"]
    assert config.backend == "openvino"
    assert config.parameters["INFERENCE_PRECISION_HINT"].string_value in ("f32", "bf16")
    assert repository.hint(REPOSITORY, network, "openvino") in ("f32", "bf16")


@every_network
def test_a_config_without_a_variants_name_is_the_cpus(task: Task, network: Network) -> None:
    texts = repository.files(task)
    assert texts[f"{network.name}/config.pbtxt"] == texts[f"{network.name}/configs/cpu.pbtxt"]


@every_task
def test_the_ensemble_carries_the_labels_that_the_client_checks(task: Task) -> None:
    text = rendered(task)[f"{task.name}/config.pbtxt"].parameters["labels"].string_value
    assert tuple(text.split(",") if text else ()) == task.labels
    for network in task.networks:
        for tensor in rendered(task)[f"{network.name}/config.pbtxt"].output:
            if tensor.label_filename:
                listed = repository.files(task)[f"{network.name}/{tensor.label_filename}"].splitlines()
                assert tuple(listed) == task.labels


@every_network
def test_a_graph_loads_with_exactly_the_declared_tensors(task: Task, network: Network) -> None:
    session = ort.InferenceSession(graph_path(REPOSITORY, network), providers=["CPUExecutionProvider"])
    found = {value.name: (value.type, tuple(value.shape[1:])) for value in session.get_outputs()}
    assert found == {t.name: (DTYPES[t.dtype], t.shape) for t in task.graph_outputs(network)}
    (image,) = session.get_inputs()
    declared = Tensor(network.reads, "UINT8", task.input_shape(network))
    assert (image.name, image.type, tuple(image.shape[1:])) == (declared.name, "tensor(uint8)", declared.shape)
    assert all(isinstance(value.shape[0], str) for value in (image, *session.get_outputs()))  # the batch is free


@every_network
def test_a_graph_is_in_a_format_that_tritons_own_onnx_runtime_reads(task: Task, network: Network) -> None:
    model = graph(network)
    assert model.ir_version <= 10
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert 17 <= max(entry.version for entry in model.opset_import) <= 18


@every_network
def test_a_graph_tells_nothing_of_the_machine_that_made_it(task: Task, network: Network) -> None:
    content = graph_path(REPOSITORY, network).read_bytes()
    assert not [path for path in PATHS if path in content]


def test_the_u_net_stays_small_enough_for_one_core() -> None:
    network = TASKS["retina"].network("retina_unet")
    model = graph(network)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    assert 0 < sum(math.prod(tensor.dims) for tensor in weights) <= 150_000
    assert 1e9 < multiplications(model) <= 2.5e9


def multiplications(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of all convolutions for one picture, from the inferred shapes."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    shapes = {v.name: [axis.dim_value for axis in v.type.tensor_type.shape.dim] for v in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            # A convolution reads its whole kernel for every pixel it writes, a transposed one for every pixel it reads.
            moved = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]]
            assert len(moved) == 4
            total += math.prod(shapes[node.input[1]]) * moved[2] * moved[3]
    return total


@every_task
def test_the_committed_repository_has_all_that_serving_needs(task: Task) -> None:
    repository.check(task, REPOSITORY)


@every_task
def test_a_missing_file_is_named_with_the_command_that_writes_it(task: Task, tmp_path: Path) -> None:
    for name, text in repository.files(task).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ServerError, match=rf"model\.onnx is missing: python -m export {task.name}"):
        repository.check(task, tmp_path)
    (tmp_path / task.name / "config.pbtxt").unlink()
    with pytest.raises(ServerError, match=rf"{task.name}/config\.pbtxt is missing: python -m export {task.name}"):
        repository.check(task, tmp_path)


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_the_cores_that_configs_were_fitted_to_can_be_read_back(cores: int, tmp_path: Path) -> None:
    for task in TASKS.values():
        for name, text in repository.files(task, cores).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        assert repository.configured_cores(task, tmp_path) == cores
