#!/usr/bin/env bash
# The three classifiers of repro_finetuning.sh made smaller: the energy rules of tiny-DINOv3-FT-PCam (heads 0.89, MLP and
# SVD 0.975), a calibrated method of the same size, and bf16; scored with their own heads on test.
# Usage: scripts/repro_pruning.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python} runs=${RUNS:-runs} data=${DATA:-data/pcam}
test=PCam:root=$data:split=test

for method in head_only lora fullft; do
    run=$runs/pcam_$method small=$runs/pcam_small/$method
    mkdir -p "$small"
    "$python" -m dinov3.cli compress "$run/classifier" --method heads,mlp,svd \
        --amount heads=0.89,mlp=0.975,svd=0.975 --out "$small/energy.safetensors"
    "$python" -m dinov3.cli compress "$run/classifier" --method compensate --budget 0.93 \
        --calibrate "PCam:root=$data:split=valid" --out "$small/compensate.safetensors"
    "$python" -m dinov3.cli compress "$run/classifier" --quantize bf16 --out "$small/bf16.safetensors"
    for kind in energy compensate bf16; do
        "$python" -m dinov3.cli finetune evaluate "$run" --backbone "$small/$kind.safetensors" --data "$test" --tta \
            --out "$small/$method-$kind"
    done
done
"$python" -m dinov3.cli finetune report "$runs"/pcam_{head_only,lora,fullft} "$runs"/pcam_small/*/*-* \
    --out "$runs/pcam_small.html"
