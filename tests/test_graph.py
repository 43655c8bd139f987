"""What every exported graph must be: as declared, valid, old enough, and silent about the machine that made it."""

from dataclasses import replace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from export import graph
from fovea.errors import ExportError
from fovea.spec import Network, Task
from fovea.tasks import TASKS

SIDE = 512
RETINA = TASKS["retina"]


def tiny(opset: int = 18, ir_version: int = 10, **changes: Any) -> tuple[onnx.ModelProto, Task, Network]:
    """A valid graph for a network that answers a mask of the red channel, with something about it changed."""
    network = RETINA.networks[0]
    task = replace(RETINA, networks=(network,))
    given = {"shape": ["N", SIDE, SIDE, 3], "name": "image", "output": "vessels", "kind": TensorProto.UINT8}
    settings: dict[str, Any] = given | changes
    image = helper.make_tensor_value_info(settings["name"], TensorProto.UINT8, settings["shape"])
    mask = helper.make_tensor_value_info(settings["output"], settings["kind"], ["N", SIDE, SIDE, 1])
    constants = [helper.make_tensor("axis", TensorProto.INT64, [1], [3]), *(
        helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("start", 0), ("end", 1))
    )]  # fmt: skip
    inputs = [settings["name"], "start", "end", "axis"]
    nodes = [helper.make_node(settings.get("operator", "Slice"), inputs, [settings["output"]])]
    made = helper.make_graph(nodes, "tiny", [image], [mask], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return model, task, network


def test_a_valid_graph_is_stamped_and_its_format_held_down() -> None:
    model = graph.finish(*tiny(ir_version=12), {"fovea.task": "retina"})
    assert model.ir_version == graph.IR_VERSION == 10
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("fovea.task", "retina")]


WRONG = {
    "a newer opset": ({"opset": 19}, "needs opset 19; at most 18"),
    "another input's name": ({"name": "picture"}, "should have inputs and outputs"),
    "another side": ({"shape": ["N", 32, 32, 3]}, "should have inputs and outputs"),
    "a fixed batch": ({"shape": [1, SIDE, SIDE, 3]}, "should have inputs and outputs"),
    "another output's name": ({"output": "mask"}, "should have inputs and outputs"),
    "another type": ({"kind": TensorProto.FLOAT}, "should have inputs and outputs"),
    "an operator that does not exist": ({"operator": "Sliced"}, "is no valid graph"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_graph_that_is_not_what_its_task_declares_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        graph.finish(*tiny(**changes), {})
    assert "\n" not in str(caught.value)


def test_a_graph_leaves_the_paths_of_its_maker_behind() -> None:
    model, task, network = tiny()
    model.graph.node[0].doc_string = "File '/home/someone/model.py', line 3"
    model.graph.input[0].doc_string = model.graph.initializer[0].doc_string = "/home/someone"
    model.graph.node[0].metadata_props.add(key="stack", value="/home/someone/model.py")
    model.graph.metadata_props.add(key="source", value="/home/someone")
    model.metadata_props.add(key="source", value="/home/someone")
    model.doc_string = "/home/someone"
    assert b"/home" not in graph.finish(model, task, network, {}).SerializeToString()
