"""Section M: does `cifar10_vits` learn? Its goal is 75 % k-NN in 8 minutes; a run that the time ends still says how far it came."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import ROOT, NotHere, Row, SectionReport
from dinov3.config.recipes import config_file
from dinov3.runs.folder import RunFolder
from dinov3.system.errors import EXIT_DONE, EXIT_PREEMPTED
from dinov3.system.rows import read_rows

RECIPE = "cifar10_vits"
TO_SAVE = 20.0  # seconds that a run is given to save and end
ENDED_WELL = EXIT_DONE, EXIT_PREEMPTED  # at its end, or told to stop and saved
TINY: dict[str, Any] = {
    "train.num_workers": 0,
    "train.batch_size_per_gpu": 4,
    "train.OFFICIAL_EPOCH_LENGTH": 2,
    "train.log_every": 1,
    "optim.epochs": 2,
    "optim.warmup_epochs": 1,
    "student.embed_dim": 32,
    "student.depth": 1,
    "student.num_heads": 1,
    "dino.head_hidden_dim": 32,
    "ibot.head_hidden_dim": 32,
    "evaluation.knn.period": 2,
}
MADE = "Synthetic:size=32:n=60"


def run(report: SectionReport, settings: Settings) -> None:
    with report.item(RECIPE) as row:
        if settings.cifar is None and not settings.tiny:
            raise NotHere("--cifar names no folder with CIFAR-10 in tar shards")
        out = settings.scratch / "learn"
        row["exit_code"] = train(out, settings, report.left())
        row |= figures(RunFolder(out))
        learned = settings.tiny or row.get("knn", 0.0) > row.get("knn_at_0", 0.0)  # a few tiny steps learn nothing
        row["passed"] = row["exit_code"] in ENDED_WELL and learned


def data_of(settings: Settings) -> dict[str, str]:
    """Images to train on, and labelled ones that vote and are scored."""
    if settings.cifar is None:
        return {"train.dataset_path": MADE, "evaluation.knn.train": MADE, "evaluation.knn.test": f"{MADE}:seed=1"}
    folder = Path(settings.cifar)
    return {
        "train.dataset_path": f"{folder}/train-*.tar",
        "evaluation.knn.train": f"{folder}/train-*.tar",
        "evaluation.knn.test": f"{folder}/test-*.tar",
    }


def train(out: Path, settings: Settings, seconds: float) -> int:
    """The exit code of a run of the recipe in a process of its own, which is told to stop when ``seconds`` are over."""
    keys = data_of(settings) | (TINY if settings.tiny else {}) | {"train.device": settings.device}
    words = [f"{key}={value}" for key, value in keys.items()]
    command = [
        sys.executable,
        "-m",
        "dinov3.train",
        "--config-file",
        str(config_file(RECIPE)),
        "--output-dir",
        str(out),
    ]
    with subprocess.Popen([*command, *words, *settings.keys], cwd=ROOT) as process:
        try:
            return process.wait(max(seconds - TO_SAVE, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            return process.wait()


def figures(run: RunFolder) -> Row:
    """How far it came: k-NN accuracy before, at the end and at each look between; speed of its steps."""
    rows, looks = read_rows(run.metrics), read_rows(run.evaluation)
    found: Row = {}
    if rows:
        found["steps"] = rows[-1]["iteration"] + 1
        found["images_per_second"] = round(statistics.median(row["images_per_second"] for row in rows), 1)
        found["losses"] = [round(row["total_loss"], 4) for row in rows[:: max(1, len(rows) // 40)]]
    if looks:
        found |= {"knn_at_0": looks[0]["knn_accuracy"], "knn": looks[-1]["knn_accuracy"]}
        found["looks"] = [{key: row.get(key) for key in ("step", "knn_accuracy", "rankme")} for row in looks]
    return found
