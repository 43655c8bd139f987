"""`python -m export.trtexec`: writes deploy/engines.sh, the command lines for people who build with NVIDIA's trtexec.

The script makes what `--to tensorrt` makes, `1/model.plan` and its note, from the graphs that `--to
onnxruntime_tensorrt` wrote; it needs trtexec, nvidia-smi and a POSIX shell, no Python. It measures no parity.
"""

import sys

from fovea import plan
from fovea.repository import WORKSPACE
from fovea.spec import Network, Task
from fovea.tasks import TASKS

HEAD = r"""#!/bin/sh
# Every network's TensorRT engine, built by trtexec on the GPU that will serve it: deploy/engines.sh [REPOSITORY]
#
# For TensorRT 10 and 11, inside NVIDIA's TensorRT or Triton container. The graphs come first, on any machine:
#     python -m export <task> --to onnxruntime_tensorrt
# Written by python -m export.trtexec from the tasks; a test holds it to them.
set -eu

fail() {
    echo "$1" >&2
    exit "${2:-1}"
}

[ $# -le 1 ] || fail "usage: deploy/engines.sh [REPOSITORY]" 2
repository=${1:-model_repository}
[ -d "$repository" ] || fail "$repository is no folder: give a model repository." 2
PATH=$PATH:/usr/src/tensorrt/bin # where NVIDIA's containers keep it
command -v trtexec >/dev/null ||
    fail "trtexec was not found: run this inside NVIDIA's TensorRT container; nothing was changed."
gpus=$(nvidia-smi --query-gpu=compute_cap,name --format=csv,noheader) ||
    fail "No NVIDIA GPU can be used here (nvidia-smi failed): an engine is built on the GPU that serves it."
[ "$(echo "$gpus" | cut -d , -f 1 | sort -u | wc -l)" -eq 1 ] ||
    fail "This machine has GPUs of several kinds, and an engine is for one: give the container one kind."
capability=$(echo "$gpus" | head -n 1 | cut -d , -f 1)
name=$(echo "$gpus" | head -n 1 | cut -d , -f 2- | sed 's/^ *//')

work=$(mktemp -d)
partial=
trap 'rm -rf "$work"; [ -z "$partial" ] || rm -f "$partial"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

digest() {
    sha256sum "$1" | cut -d ' ' -f 1
}

build() {
    network=$1 task=$2 least=$3 typical=$4 largest=$5 profile=$6
    folder=$repository/$network/1
    graph=$folder/@GRAPH@
    [ -f "$folder/model.onnx" ] || fail "$folder/model.onnx is missing: python -m export $task writes it."
    [ -f "$graph" ] || fail "$graph is missing: python -m export $task --to onnxruntime_tensorrt writes it."
    origin=$(digest "$folder/model.onnx")
    LC_ALL=C grep -q "$origin" "$graph" ||
        fail "$graph was made from another model.onnx: python -m export $task --to onnxruntime_tensorrt writes it anew."
    echo "$network: building for compute capability $capability ($name)" >&2
    partial=$folder/.@PLAN@.partial
    trtexec --onnx="$graph" --saveEngine="$partial" --stronglyTyped --noTF32 --memPoolSize=workspace:@WORKSPACE@ \
        --minShapes="$least" --optShapes="$typical" --maxShapes="$largest" \
        --timingCacheFile="$work/timings" --skipInference >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        fail "$network: trtexec failed, see its last lines above; the engines of this network are as they were."
    }
    version=$(sed -n 's/.*TensorRT version: *\([0-9][0-9.]*\).*/\1/p' "$work/log" | head -n 1)
    cat >"$work/note" <<EOF
{
 "network": "$network",
 "precision": "that of @GRAPH@",
 "capability": "$capability",
 "gpu": "$name",
 "tensorrt": "${version:-unknown}",
 "graphs": {"model.onnx": "$origin", "@GRAPH@": "$(digest "$graph")"},
 "profile": [$profile],
 "settings": {"workspace_bytes": @BYTES@, "tf32": false, "strongly_typed": true},
 "sha256": "$(digest "$partial")",
 "size_bytes": $(wc -c <"$partial" | tr -d ' '),
 "built": "$(date -u +%Y-%m-%dT%H:%M:%S+00:00)",
 "built_by": "trtexec",
 "parity": []
}
EOF
    # Killed between the two, the engine is not the one that its note describes, and is refused before it is served.
    mv "$partial" "$folder/@PLAN@"
    partial=$folder/.@NOTE@.partial
    cp "$work/note" "$partial"
    mv "$partial" "$folder/@NOTE@"
    partial=
}

"""


def line(task: Task, network: Network) -> str:
    """One call: shapes as `<input>:<batch>x<height>x<width>x<channels>`, then the batches."""
    shapes = [f"{network.reads}:{'x'.join(map(str, shape))}" for shape in task.profile(network)]
    return f"build {network.name} {task.name} {' '.join(shapes)} '{', '.join(map(str, network.batches))}'\n"


def script() -> str:
    values = {"GRAPH": plan.TENSORRT_GRAPH, "PLAN": plan.FILE, "NOTE": plan.NOTE}
    values |= {"WORKSPACE": str(WORKSPACE // 2**20), "BYTES": str(WORKSPACE)}
    text = HEAD
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text + "".join(line(task, network) for task in TASKS.values() for network in task.networks)


if __name__ == "__main__":
    sys.stdout.write(script())
