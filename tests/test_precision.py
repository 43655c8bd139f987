"""Lower precision: chosen by what it costs the task and what it gains, never by its name."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from conftest import REPOSITORY
from onnx import TensorProto, helper, numpy_helper
from small_runs import RETINA, SIDE

from export import convert, ladder, precision, quantise
from export.evidence import Evidence, load
from export.precision import Row, choose
from fovea import engines, repository
from fovea.errors import ExportError
from fovea.repository import Choice
from fovea.spec import Network, Task
from fovea.tasks import TASKS
from training.unet import UNet

torch.set_num_threads(1)
UNET, CLASSIFIER = RETINA.networks
GENERATOR = np.random.default_rng(5)


def row(
    precision_: str, share: float, latency_ms: float, finite: bool = True, enough: bool = True, agrees: float = 1
) -> Row:
    return Row(
        network="n", hardware="cpu", precision=precision_, title=precision_, metric="AUC", pictures=9, value=share,  # type: ignore[arg-type]
        share=share, agrees=agrees, finite=finite, enough=enough, latency_ms=latency_ms, speed=100 / latency_ms,
    )  # fmt: skip


CHOICES = {
    "the fastest that holds": ([row("bf16", 1, 60), row("int8", 0.995, 40)], "int8"),
    "not one that loses too much": ([row("bf16", 1, 60), row("int8", 0.98, 40)], "bf16"),
    "fp16 must keep more than int8": ([row("fp16", 0.998, 50), row("int8", 0.998, 60)], "int8"),
    "not one that is hardly faster": ([row("int8", 1, 95)], "fp32"),
    "not one that answered NaN": ([row("int8", 1, 40, finite=False)], "fp32"),
    "not one judged on too few pictures": ([row("int8", 1, 40, enough=False)], "fp32"),
    "not one that decides otherwise": ([row("int8", 1, 40, agrees=0.97)], "fp32"),
    "of equally fast ones the more exact": ([row("bf16", 1, 41), row("int8", 1, 40)], "bf16"),
    "fp32 where there is nothing else": ([], "fp32"),
}


@pytest.mark.parametrize(("others", "kept"), CHOICES.values(), ids=CHOICES.keys())
def test_of_all_candidates_is_kept(others: list[Row], kept: str) -> None:
    assert choose([row("fp32", 1, 100), *others]).precision == kept


@pytest.fixture(scope="module")
def unet() -> onnx.ModelProto:
    """An untrained U-Net as export would finish it, whose mask depends on the picture."""
    torch.manual_seed(3)
    module = UNet().eval()
    module.fold_threshold(0.125)  # where it begins: half of all pixels are inside
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example, batch = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8), torch.export.Dim("n", max=8)
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        made = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    assert made is not None
    model = made.model_proto
    from export import from_torch, graph

    graph.rename(model, {model.graph.input[0].name: "image", model.graph.output[0].name: from_torch.PROBABILITY})
    graph.free_batch([*model.graph.input, *model.graph.output])
    del model.graph.output[:]
    model.graph.initializer.append(helper.make_tensor("levels", TensorProto.FLOAT, [], [255.0]))
    model.graph.node.extend(
        [
            helper.make_node("Mul", [from_torch.PROBABILITY, "levels"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["rounded"]),
            helper.make_node("Cast", ["rounded"], ["vessels"], to=TensorProto.UINT8),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("vessels", TensorProto.UINT8, ["N", SIDE, SIDE, 1]))
    return model


def pictures(count: int, seed: int = 1) -> "np.ndarray[Any, Any]":
    """Blurred noise: neighbouring pixels alike, as in a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, SIDE // 8, SIDE // 8, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def answers(model: onnx.ModelProto, stack: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    run = engines.engine("cpu", model.SerializeToString(), "f32", "image")
    return np.concatenate([run(picture[None])["vessels"] for picture in stack]).astype(int)


@pytest.mark.parametrize("calibration", quantise.CALIBRATIONS)
def test_an_int8_graph_answers_nearly_as_fp32_with_the_same_tensors(
    calibration: quantise.Calibration, unet: onnx.ModelProto
) -> None:
    seen = pictures(6)
    made = quantise.int8(unet, calibration, quantise.ranges(unet, "image", seen[:4], calibration))
    onnx.checker.check_model(made, full_check=True)
    assert [v.name for v in made.graph.input] == ["image"]
    assert [v.name for v in made.graph.output] == ["vessels"]
    assert made.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert made.ir_version <= 10
    assert max(entry.version for entry in made.opset_import if entry.domain == "") <= 18
    moved = np.abs(answers(made, seen) - answers(unet, seen))
    assert 0 < moved.mean() < 8  # grey levels: another graph, the same network


def test_weights_are_quantised_per_channel_and_biases_are_not_lost(unet: onnx.ModelProto) -> None:
    made = quantise.int8(unet, "min-max", quantise.ranges(unet, "image", pictures(2), "min-max"))
    values = {tensor.name: tensor for tensor in made.graph.initializer}
    scales = {n.input[0]: values[n.input[1]] for n in made.graph.node if n.op_type == "DequantizeLinear"}
    convolutions = [node for node in unet.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        assert list(scales[f"{node.input[1]}_quantized"].dims) == [values[f"{node.input[1]}_quantized"].dims[0]]


def test_the_mask_of_an_int8_graph_is_rounded_by_one_operator(unet: onnx.ModelProto) -> None:
    made = quantise.int8(unet, "min-max", quantise.ranges(unet, "image", pictures(2), "min-max"))
    (last,) = [node for node in made.graph.node if "vessels" in node.output]
    assert last.op_type == "QuantizeLinear"
    assert "Round" not in {node.op_type for node in made.graph.node}
    read = {name for node in made.graph.node for name in node.input}
    assert {tensor.name for tensor in made.graph.initializer} <= read


def test_a_symmetric_int8_graph_has_no_zero_points_but_zero(unet: onnx.ModelProto) -> None:
    """All that TensorRT takes."""
    found = quantise.ranges(unet, "image", pictures(2), "min-max")
    made = quantise.int8(unet, "min-max", found, symmetric=True)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    pairs = [node for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    assert all(not values[node.input[2]].any() for node in pairs if len(node.input) > 2)
    assert {values[node.input[2]].dtype for node in pairs} <= {np.dtype(np.int8), np.dtype(np.int32)}


def test_fp16_keeps_the_types_of_inputs_and_outputs(unet: onnx.ModelProto) -> None:
    half = quantise.fp16(unet)
    assert {t.data_type for t in half.graph.initializer if t.dims} == {TensorProto.FLOAT16}
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert np.abs(answers(half, pictures(3)) - answers(unet, pictures(3))).max() <= 2


def spoiled(model: onnx.ModelProto, place: int) -> onnx.ModelProto:
    """One weight of one layer enormous: its channel's neighbours keep no bits, and int8 must be told to spare it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [node.input[1] for node in copy.graph.node if node.op_type == "Conv"]
    (tensor,) = (tensor for tensor in copy.graph.initializer if tensor.name == names[place])
    values = numpy_helper.to_array(tensor).copy()
    values[:, 0, 0, 0] *= 1000
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def test_the_layer_that_suffers_most_is_named_first(unet: onnx.ModelProto) -> None:
    model = spoiled(unet, place=4)
    seen = pictures(4)
    found = quantise.ranges(model, "image", seen, "min-max")
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    before = quantise.sensitive(unet, "min-max", quantise.ranges(unet, "image", seen, "min-max"), seen[:2])
    assert before[0] != convolutions[4]
    assert quantise.sensitive(model, "min-max", found, seen[:2])[0] == convolutions[4]


def evidence(count: int = 12) -> Evidence:
    """Held-out pictures whose truth is what the fp32 U-Net answers: its Dice is 1."""
    none = np.empty(0, np.int64)
    seen = pictures(count)
    truth = np.zeros((count, SIDE, SIDE), np.uint8)
    return Evidence(pictures(8, seed=2), seen, none, seen, truth, np.ones_like(truth))


@pytest.fixture(scope="module")
def judged(unet: onnx.ModelProto) -> Evidence:
    known = evidence()
    truth = answers(unet, known.marked)[..., 0]
    middle = np.median(truth)
    assert truth.min() < middle < truth.max()
    return replace(known, truth=truth.astype(np.uint8))


SEGMENT = Task(
    name="s",
    question="?",
    image=RETINA.image,
    modalities=("fundus",),
    networks=(Network("s_unet", "torch", "image", UNET.answers, UNET.tolerance),),
)


def test_auto_measures_every_candidate_and_keeps_one_for_each_hardware(
    unet: onnx.ModelProto, judged: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "SECONDS", 0)
    climbed = ladder.climb(SEGMENT, {"s_unet": unet}, "auto", judged, lambda _said: None)["s_unet"]
    measured = {
        (each.hardware, each.precision)
        for each in climbed.rows
        if each.verdict != "compared" and "zero" not in each.title
    }
    assert measured == {
        *(("cpu", name) for name in ("fp32", "fp16", "int8")),
        *(("openvino", name) for name in ("fp32", "bf16", "fp16", "int8")),
    }
    titles = [each.title for each in climbed.rows if each.precision == "int8"]
    assert {title.split()[1].rstrip(",") for title in titles} == {*quantise.CALIBRATIONS}
    (around_zero,) = [each for each in climbed.rows if "around zero" in each.title]
    assert (quantise.AROUND_ZERO in climbed.graphs) == around_zero.holds == ("TensorRT" in around_zero.verdict)
    for hardware in ("cpu", "openvino"):
        (kept,) = [each for each in climbed.rows if (each.hardware, each.verdict) == (hardware, "kept")]
        assert kept.holds
        choice = climbed.choices[hardware]
        assert choice.latency_ms == round(kept.latency_ms, 2)
        assert choice.graph == "model.onnx" or choice.graph in climbed.graphs
    table = ladder.table(list(climbed.rows))
    assert table.row_count == len(climbed.rows)


def test_a_precision_that_was_asked_for_and_does_not_hold_is_refused(
    unet: onnx.ModelProto, judged: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "SECONDS", 0)
    monkeypatch.setitem(precision.KEEPS, "int8", 1.1)  # more than there is
    with pytest.raises(
        ExportError, match=r"s_unet: int8 .* of fp32's Dice .* on 12 held-out pictures .* Nothing was exp"
    ):
        ladder.climb(SEGMENT, {"s_unet": unet}, "int8", judged, lambda _said: None)


@pytest.mark.parametrize("output", ["vessels", "grown"])
def test_infinity_in_any_output_for_a_single_picture_disqualifies(
    output: str, unet: onnx.ModelProto, judged: Evidence
) -> None:
    """An output that is not judged counts too: the mask is the same, and what is beside it overflows."""
    names = {"vessels": "untouched", "grown": "grown"}

    def grown(factor: float) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(unet)
        model.graph.initializer.append(helper.make_tensor("by", TensorProto.FLOAT, [], [factor]))
        model.graph.node.append(helper.make_node("Mul", ["scaled", "by"], [names[output]]))
        value = helper.make_tensor_value_info(names[output], TensorProto.FLOAT, ["N", SIDE, SIDE, 1])
        if output == "grown":
            model.graph.output.append(value)
        return model

    bench = precision.Bench(SEGMENT.networks[0], judged, {"cpu": judged.marked}, judged.marked)
    candidates = [precision.Candidate("fp32", grown(1)), precision.Candidate("fp16", grown(float("inf")))]
    rows = precision._race(bench, "cpu", candidates, answers(unet, judged.marked))
    assert rows[0].finite
    assert rows[1].finite == (output == "vessels")


def test_a_mask_whose_precision_costs_the_next_network_its_metric_is_made_in_fp32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ladder climbs again with that network barred on that hardware."""
    barred: list[Any] = []

    def climb(network: Network, *given: Any) -> precision.Ladder:
        only = given[4]
        barred.append((network.name, tuple(only)))
        kept = "fp32" if network is CLASSIFIER or only else "int8"
        share = 1.0 if network is UNET or not int8_before() else 0.9
        rows = [replace(row(kept, share, 10), network=network.name, verdict="kept")]
        if kept != "fp32":
            rows.append(replace(row("fp32", 1, 20), network=network.name))
        return precision.Ladder(tuple(rows), {"cpu": Choice(), "openvino": Choice()}, {})

    def int8_before() -> bool:
        return not [only for name, only in barred if name == UNET.name][-1]

    monkeypatch.setattr(precision, "climb", climb)
    monkeypatch.setattr(ladder, "_masks", lambda *_: np.zeros((2, SIDE, SIDE, 1), np.uint8))
    monkeypatch.setattr(engines, "available", lambda: ("cpu",))
    models = {network.name: onnx.ModelProto() for network in RETINA.networks}
    climbed = ladder.climb(RETINA, models, "auto", evidence(), lambda _said: None)
    assert barred == [(UNET.name, ()), (CLASSIFIER.name, ()), (UNET.name, ("cpu",)), (CLASSIFIER.name, ())]
    assert climbed[UNET.name].rows[0].precision == "fp32"


def write_evidence(folder: Path, task: Task, **changed: object) -> Path:
    side = task.image.side
    arrays: dict[str, Any] = {
        "manifest_sha256": np.array("a" * 64),
        "calibration": np.zeros((2, side, side, 3), np.uint8),
        "labelled": np.zeros((4, side, side, 3), np.uint8),
        "labels": np.array([0, 1, 0, 1]),
        "marked": np.zeros((2, side, side, 3), np.uint8),
        "truth": np.zeros((2, side, side), np.uint8),
        "inside": np.ones((2, side, side), np.uint8),
    } | changed
    path = folder / task.name / "evidence.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another size of picture": ({"calibration": np.zeros((2, 8, 8, 3), np.uint8)}, r"holds pictures uint8 \(8, 8, 3\)"),
    "floats for pictures": ({"labelled": np.zeros((4, SIDE, SIDE, 3), np.float32)}, "holds pictures float32"),
    "one class": ({"labels": np.zeros(4, np.int64)}, "too few to judge precision on"),
    "no masks": ({"marked": None}, "0 with masks: too few"),
    "nothing to calibrate on": ({"calibration": np.zeros((0, SIDE, SIDE, 3), np.uint8)}, "has 0 training pictures"),
    "no labels": ({"labels": None}, "cannot be read"),
    "pickled objects": ({"labels": np.array([object()])}, "cannot be read"),
}


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_evidence_that_cannot_be_judged_on_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_evidence(tmp_path, RETINA, **changed)
    with pytest.raises(ExportError, match=said) as caught:
        load(RETINA, tmp_path, tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_and_truncated_evidence_say_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is missing, .*: python -m training retina --evaluate DIR writes it"):
        load(RETINA, tmp_path, tmp_path)
    path = write_evidence(tmp_path, RETINA)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ExportError, match="cannot be read"):
        load(RETINA, tmp_path, tmp_path)


def test_evidence_of_another_split_than_the_weights_is_refused(tmp_path: Path) -> None:
    write_evidence(tmp_path, RETINA)
    (tmp_path / f"{UNET.name}.json").write_text(json.dumps({"data": {"manifest_sha256": "b" * 64}}))
    with pytest.raises(ExportError, match="of another split"):
        load(RETINA, tmp_path, tmp_path)


def test_dice_and_auc_are_those_of_their_definitions() -> None:
    truth = np.zeros((1, SIDE, SIDE), np.uint8)
    truth[0, :10] = 255
    found = np.zeros((1, SIDE, SIDE, 1), np.uint8)
    found[0, 5:15] = 200
    inside = np.ones_like(truth)
    known = replace(evidence(1), truth=truth, inside=inside, labels=np.array([0, 1, 0, 1]))
    assert known.dice(found) == pytest.approx(2 * 5 / 20)
    inside[0, 12:] = 0
    assert replace(known, inside=inside).dice(found) == pytest.approx(2 * 5 / 17)
    assert known.pairs == 4
    assert known.auc(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])) == pytest.approx(0.75)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_the_committed_cards_chose_is_what_the_configs_serve_and_the_graph_is_there(task: Task) -> None:
    for network in task.networks:
        card = json.loads((REPOSITORY / network.name / "card.json").read_text())
        for hardware, choice in repository.recorded_choices(task, REPOSITORY)[network.name].items():
            path = repository.graph_path(REPOSITORY, network, hardware)
            assert path.name == choice.graph
            assert repository.hint(REPOSITORY, network, hardware) == choice.hint
            ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        rows = card["precision"]["candidates"]
        kept = {each["hardware"]: each for each in rows if each["verdict"] == "kept"}
        assert kept.keys() == {"cpu", "openvino"}
        for each in kept.values():
            assert each["precision"] == "fp32" or each["share"] >= precision.KEEPS[each["precision"]]


def test_the_committed_unet_is_twice_as_fast_in_int8_at_hardly_any_dice() -> None:
    """The issue's goal, on the card that the export wrote: 2 ×, and at most 0.005 of Dice."""
    rows = json.loads((REPOSITORY / "retina_unet" / "card.json").read_text())["precision"]["candidates"]
    by = {(each["hardware"], each["precision"]): each for each in rows if each["verdict"] != "compared"}
    quantised, plain = by["openvino", "int8"], by["openvino", "fp32"]
    assert quantised["speed"] >= 2
    assert plain["value"] - quantised["value"] <= 0.005


def test_fp32_is_exported_without_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first export of a network must not wait for a data set."""
    monkeypatch.setattr("export.evidence.load", lambda *_: pytest.fail("evidence was asked for"))
    monkeypatch.setattr("export.pictures.stacks", lambda *_: {"phantoms": pictures(1)})
    asked = SimpleNamespace(precision="fp32", reports=Path("r"), weights=Path("w"), pictures=[])
    with pytest.raises(ExportError, match="does not exist: train the network first"):
        convert.convert(RETINA, asked)  # type: ignore[arg-type]
