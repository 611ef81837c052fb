#!/usr/bin/env bash
# The backbone of a run in every layout: scripts/export_all.sh runs/demo exports/demo
set -euo pipefail
run=$1 out=$2
mkdir -p "$out"
dinov3 export "$run" --format safetensors --out "$out/backbone.safetensors"
dinov3 export "$run" --format meta --out "$out/backbone.pth"
dinov3 export "$run" --format hf --out "$out/hf"
dinov3 export "$run" --format onnx --out "$out/backbone.onnx"
