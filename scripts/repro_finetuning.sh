#!/usr/bin/env bash
# PatchCamelyon with a DINOv3 ViT-S/16: head, LoRA and everything, side by side. WEIGHTS: anything `dinov3` reads.
# Usage: WEIGHTS=dinov3_vits16.pth scripts/repro_finetuning.sh [key=value …]; runs/pcam_* continue where they ended.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${WEIGHTS:?give the backbone, for example WEIGHTS=weights/dinov3_vits16_pretrain_lvd1689m.pth}"
python=${PYTHON:-python} runs=${RUNS:-runs} data=${DATA:-data/pcam}

[ -n "${MADE:-}" ] || "$python" -m dinov3.cli pcam download --out "$data"
"$python" -m dinov3.cli pcam verify --out "$data"
for method in head_only lora fullft; do
    "$python" -m dinov3.cli finetune --config-file "configs/finetune/pcam_$method.yaml" \
        --output-dir "$runs/pcam_$method" model.weights="$WEIGHTS" \
        train.dataset_path="PCam:root=$data:split=train" evaluation.validation="PCam:root=$data:split=valid" \
        evaluation.test="PCam:root=$data:split=test" "$@"
done
"$python" -m dinov3.cli finetune report "$runs"/pcam_{head_only,lora,fullft} --out "$runs/pcam_report.html"
