"""Every rule, how grave breaking it is, and what it asks for; `docs/lint.md` prints this table.

An error is what Triton refuses to load, what makes requests fail or hang or answer wrongly, or what reaches outside
the repository. A warning works, and is slower, riskier or other than it looks.
"""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    severity: Severity
    asks: str


RULES: dict[str, Rule] = {
    # Folders and files
    "model-empty": Rule("error", "every folder of the repository is a model: it has a config or a graph"),
    "version-missing": Rule("error", "a model has a version folder, numbered from 1, also an ensemble"),
    "version-ignored": Rule("warning", "a folder with a graph is named as Triton counts versions: 1, 2, …"),
    "version-policy": Rule("error", "the versions that `version_policy` asks for are there"),
    "graph-missing": Rule("error", "what the config names, or its backend expects, is in every served version"),
    "graph-not-built": Rule("warning", "an engine that a variant needs has been built on this machine"),
    "stray-file": Rule("warning", "graphs lie in a version folder, configs in the model's folder"),
    "path-outside": Rule("error", "files named by a config lie inside the model's folder"),
    "file-unreadable": Rule("error", "files are regular, readable and of a sensible size"),
    "warmup-missing": Rule("error", "the data files of `model_warmup` and of initial states are there"),
    # Configs
    "config-syntax": Rule("error", "a config is protobuf text that parses"),
    "unknown-field": Rule("error", "every field is one of Triton's"),
    "unknown-value": Rule("error", "every enumeration has one of Triton's values"),
    "two-schedulers": Rule("error", "at most one of dynamic batching, sequence batching and ensemble scheduling"),
    "field-too-new": Rule("error", "every field is known to the chosen Triton"),
    "name-mismatch": Rule("error", "`name` is that of the folder, or left out"),
    "backend-unknown": Rule("error", "the backend is named, or follows from the files"),
    "batch-size": Rule("error", "`max_batch_size` is not negative, and no preferred size is larger"),
    "priority-level": Rule("error", "priority levels have a default among them"),
    "tensor-incomplete": Rule("error", "inputs and outputs have name, data type and dims"),
    "tensor-duplicate": Rule("warning", "no two inputs, and no two outputs, share a name"),
    "dims-invalid": Rule("error", "dims are -1 or at least 1, three of them where a format such as NHWC is named"),
    "reshape-mismatch": Rule("error", "a reshape keeps the number of elements"),
    "instance-group": Rule("error", "GPUs and profiles are given only to instances that can have them"),
    "response-cache": Rule("error", "no response cache on sequences and decoupled models"),
    "parameter-invalid": Rule("error", "thread counts and modes in `parameters` are numbers that the backend takes"),
    # Labels
    "labels-missing": Rule("error", "the file of `label_filename` is there"),
    "label-count": Rule("error", "as many labels as the output has elements"),
    "label-blank": Rule("warning", "no label is an empty line"),
    "label-duplicate": Rule("warning", "no label stands twice"),
    # Python models
    "python-syntax": Rule("error", "model.py is valid Python"),
    "python-class": Rule("error", "model.py defines TritonPythonModel"),
    # ONNX files
    "lfs-pointer": Rule("error", "a graph is the file itself, not its Git LFS pointer"),
    "graph-broken": Rule("error", "model.onnx is a whole ONNX file"),
    "ir-too-new": Rule("error", "the ONNX Runtime of the chosen Triton reads the file's IR version"),
    "opset-too-new": Rule("error", "the ONNX Runtime of the chosen Triton knows the file's opset"),
    "custom-operator": Rule("warning", "operators are ONNX's or ONNX Runtime's own, or their library is named"),
    "graph-duplicate": Rule("error", "no two inputs, outputs or initializers of a graph share a name"),
    "graph-dims": Rule("error", "dims of graph inputs, outputs and initializers are possible numbers"),
    "graph-type": Rule("error", "inputs and outputs are tensors of a type that Triton has"),
    "initializer-size": Rule("error", "an initializer holds the bytes that its dims promise"),
    "external-data-outside": Rule("error", "external data lie beside their graph"),
    "external-data-missing": Rule("error", "external data are there"),
    "external-data-short": Rule("error", "external data are as long as the graph says"),
    # A config against its graph
    "input-unknown": Rule("error", "the graph has every input of the config"),
    "output-unknown": Rule("error", "the graph has every output of the config"),
    "input-missing": Rule("error", "the config has every input that the graph needs"),
    "input-optional": Rule("error", "an optional input is an initializer of the graph, and the model is not batched"),
    "data-type": Rule("error", "config and graph agree on data types"),
    "dims": Rule("error", "config and graph agree on dims"),
    "dims-free": Rule("warning", "an output axis that the config fixes is fixed in the graph"),
    "batch-axis": Rule("error", "the first axis is free where `max_batch_size` > 0, and stands in dims where it is 0"),
    # Ensembles
    "ensemble-platform": Rule("error", "`platform: \"ensemble\"`, no backend, and `ensemble_scheduling` go together"),
    "ensemble-settings": Rule("error", "instances, warm-up and optimization belong to the steps"),
    "ensemble-batch": Rule("error", "an ensemble's `max_batch_size` is at most that of each batched step"),
    "ensemble-recursion": Rule("error", "no ensemble is, directly or not, a step of itself"),
    "step-incomplete": Rule("error", "every step has a model, an input map and an output map"),
    "step-model": Rule("error", "every step's model is in the repository"),
    "step-version": Rule("error", "every step's version is served; -1 is the newest, and must be written"),
    "step-input-unknown": Rule("error", "input maps name inputs of the step's model"),
    "step-input-missing": Rule("error", "every input of a step's model that is not optional is mapped"),
    "step-output-unknown": Rule("error", "output maps name outputs of the step's model"),
    "step-data-type": Rule("error", "who makes a tensor and who reads it agree on its data type"),
    "step-dims": Rule("error", "who makes a tensor and who reads it agree on its dims"),
    "tensor-twice": Rule("error", "every tensor is made once"),
    "tensor-not-made": Rule("error", "every tensor that is read is made"),
    "tensor-cycle": Rule("error", "no step waits for itself"),
    "tensor-unused": Rule("error", "every input and every mapped tensor is read"),
    "output-not-made": Rule("error", "every output of the ensemble is made"),
    "output-read-on": Rule("warning", "no output of the ensemble is also read by a step"),
    "queue-limit": Rule("error", "before Triton 2.66, only the step by which all requests enter has `max_queue_size`"),
    # This machine
    "threads": Rule("warning", "instances × intra-op threads are at most the cores"),
    "threads-unset": Rule("warning", "several ONNX instances on a CPU have `intra_op_thread_count`"),
    "cpu-batching": Rule("warning", "no dynamic batching of ONNX models on a CPU"),
}  # fmt: skip
