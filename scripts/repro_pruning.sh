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
    "$python" -m dinov3.cli compress "$run/classifier" --compare heads=0.89,mlp=0.975,svd=0.975 compensate=0.93 bf16 \
        --calibrate "PCam:root=$data:split=valid" --test "$test" --labelled-images 40000 --out "$small"
    for file in "$small"/*.safetensors; do
        "$python" -m dinov3.cli finetune evaluate "$run" --backbone "$file" --data "$test" --tta \
            --out "$small/scores/$method-$(basename "$file" .safetensors)"
    done
done
"$python" -m dinov3.cli finetune report "$runs"/pcam_{head_only,lora,fullft} "$runs"/pcam_small/*/scores/* \
    --out "$runs/pcam_small.html"
