#!/bin/sh
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
    graph=$folder/model.tensorrt.onnx
    [ -f "$folder/model.onnx" ] || fail "$folder/model.onnx is missing: python -m export $task writes it."
    [ -f "$graph" ] || fail "$graph is missing: python -m export $task --to onnxruntime_tensorrt writes it."
    origin=$(digest "$folder/model.onnx")
    LC_ALL=C grep -q "$origin" "$graph" ||
        fail "$graph was made from another model.onnx: python -m export $task --to onnxruntime_tensorrt writes it anew."
    echo "$network: building for compute capability $capability ($name)" >&2
    partial=$folder/.model.plan.partial
    trtexec --onnx="$graph" --saveEngine="$partial" --stronglyTyped --noTF32 --memPoolSize=workspace:1024 \
        --minShapes="$least" --optShapes="$typical" --maxShapes="$largest" \
        --timingCacheFile="$work/timings" --skipInference >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        fail "$network: trtexec failed, see its last lines above; the engines of this network are as they were."
    }
    version=$(sed -n 's/.*TensorRT version: *\([0-9][0-9.]*\).*/\1/p' "$work/log" | head -n 1)
    cat >"$work/note" <<EOF
{
 "network": "$network",
 "precision": "that of model.tensorrt.onnx",
 "capability": "$capability",
 "gpu": "$name",
 "tensorrt": "${version:-unknown}",
 "graphs": {"model.onnx": "$origin", "model.tensorrt.onnx": "$(digest "$graph")"},
 "profile": [$profile],
 "settings": {"workspace_bytes": 1073741824, "tf32": false, "strongly_typed": true},
 "sha256": "$(digest "$partial")",
 "size_bytes": $(wc -c <"$partial" | tr -d ' '),
 "built": "$(date -u +%Y-%m-%dT%H:%M:%S+00:00)",
 "built_by": "trtexec",
 "parity": []
}
EOF
    # Killed between the two, the engine is not the one that its note describes, and is refused before it is served.
    mv "$partial" "$folder/model.plan"
    partial=$folder/.model.plan.json.partial
    cp "$work/note" "$partial"
    mv "$partial" "$folder/model.plan.json"
    partial=
}

build retina_unet retina image:1x512x512x3 image:4x512x512x3 image:8x512x512x3 '1, 4, 8'
build retina_classifier retina vessels:1x512x512x1 vessels:4x512x512x1 vessels:8x512x512x1 '1, 4, 8'
build fundus_classifier fundus image:1x256x256x3 image:4x256x256x3 image:8x256x256x3 '1, 4, 8'
build glaucoma_classifier glaucoma image:1x224x224x3 image:4x224x224x3 image:8x224x224x3 '1, 4, 8'
build oct_classifier oct image:1x256x256x3 image:4x256x256x3 image:8x256x256x3 '1, 4, 8'
build glomeruli_classifier glomeruli image:1x224x224x3 image:4x224x224x3 image:8x224x224x3 '1, 4, 8'
build artery_classifier artery image:1x300x300x3 image:4x300x300x3 image:8x300x300x3 '1, 4, 8'
