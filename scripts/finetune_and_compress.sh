#!/usr/bin/env bash
# From made tissue to a small classifier: pretrain a little, fine-tune (all, LoRA), compress by every method, quantise, score
# each with the classifier's own head, recover one with labels and without, report. Usage: scripts/finetune_and_compress.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/finetune_demo} python=${PYTHON:-python} n=${N:-1000} epochs=${EPOCHS:-8}
set_of() { echo "PCam:root=$out/pcam:split=$1"; }
run() { echo "+ dinov3 $*" >&2; "$python" -m dinov3.cli "$@"; }
beside() { OMP_NUM_THREADS=1 run "$@" & jobs+=($!); } # small models have use for one core each
all() { for job in "${jobs[@]}"; do wait "$job"; done; jobs=(); }
jobs=()

[ -f "$out/pcam/camelyonpatch_level_2_split_test_y.h5" ] || run pcam synth --out "$out/pcam" --n "$n"
run train --config-file configs/train/demo_cpu.yaml --output-dir "$out/ssl" train.dataset_path="$(set_of train)" \
    train.max_steps=40 train.batch_size_per_gpu=32 evaluation.knn.train=null evaluation.knn.test=null evaluation.pictures=false

common=(train.dataset_path="$(set_of train)" evaluation.validation="$(set_of valid)" evaluation.test="$(set_of test)"
    model.size=48 train.batch_size_per_gpu=32 train.num_workers=2 optim.epochs="$epochs" optim.warmup_steps=10
    augment.preset=histology evaluation.tta=true evaluation.bootstrap=500)
beside finetune --output-dir "$out/full" model.weights="$out/ssl" model.method=fullft optim.lr=2e-3 "${common[@]}"
beside finetune --output-dir "$out/lora" model.weights="$out/ssl" model.method=lora model.train_norms_bias=both \
    optim.lr=5e-3 "${common[@]}"
all

# tissue of validation, its labels not looked at, calibrates; all heads together are less than a quarter of so small a model
run compress "$out/full/classifier" --budget 0.75 --compare heads=0.5 heads,mlp,svd mlp svd variance compensate whitened bf16 \
    int8 compensate+int8 --calibrate "$(set_of valid)" --images 128 --size 48 --test "$(set_of test)" --out "$out/small"
start=$out/small/heads-mlp-svd.safetensors
beside finetune --output-dir "$out/recovered" model.weights="$start" model.head="$out/full" model.method=fullft optim.lr=5e-4 \
    "${common[@]}" optim.epochs=2 optim.warmup_steps=1
beside finetune --output-dir "$out/distilled" task=recover model.weights="$start" model.teacher="$out/full/classifier" \
    optim.lr=5e-4 train.dataset_path="$(set_of train)" train.batch_size_per_gpu=32 optim.epochs=2
all
for pair in energy:small/heads-mlp-svd.safetensors compensate:small/compensate.safetensors distilled:distilled/recovered; do
    beside finetune evaluate "$out/full" --backbone "$out/${pair#*:}" --data "$(set_of test)" --tta --out "$out/scores/${pair%%:*}"
done
all
run finetune report "$out"/{full,lora,recovered} "$out"/scores/* --out "$out/report.html"
