"""Every command of ``dinov3``, one after the other in this process: ``python -m tests.every_command FOLDER RESULTS``.

``FOLDER``, as it is given, begins every path of every command. A JSON line a command goes to ``RESULTS``: its words, and
what it ended with.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import sys
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from tests.train.tiny import overrides

# In the name of an image and of a folder: neither Latin-1 nor ASCII has all of them. As a command line has it, under
# LANG=C too, where Python takes names for ASCII.
UMLAUTS = os.fsdecode("Größe – ∅".encode())
DA3 = ("da3.enabled=true", "da3.random_init=true", "da3.variant=small", "da3.projector_hidden_dim=64")
DIT = """\
train: {batch_size_per_gpu: 4, max_steps: 2, num_workers: 1, device: cpu}
transformer: {width: 16, depth: 1, heads: 2}
validation: {samples: 2, steps: 1}
"""

TUNED = ("model.size=32", "optim.epochs=1", "train.batch_size_per_gpu=10", "train.num_workers=1", "train.device=cpu")


def images(folder: Path) -> None:
    """Two classes of ten images."""
    random = np.random.default_rng(0)
    for number in range(20):
        path = folder / f"class {number % 2}" / f"{UMLAUTS} {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)


def commands(at: str) -> list[list[str]]:
    """Each command at least once, with all of its options that take a path; ``at`` begins every path."""
    return [*of_training(at), *of_a_backbone(at), *of_diffusion(at), *of_finetuning(at), *of_runs(at)]


def tiny(at: str) -> list[str]:
    """The keys of a run of seconds."""
    data = f"{at}/{UMLAUTS}"
    return overrides(train__max_steps=2, train__dataset_path=data)


def of_training(at: str) -> list[list[str]]:
    data, run, yaml, small = f"{at}/{UMLAUTS}", f"{at}/run", f"{at}/tiny.yaml", tiny(at)
    measured = [f"evaluation.{key}={data}" for key in ("knn.train", "knn.test", "drift.dataset")]
    job = ["submit", "--config-file", yaml, "--output-dir", run, "--dry-run"]
    return [
        ["train", "--config-file", yaml, "--output-dir", run, *small, *measured, "evaluation.pictures=true"],
        ["train", "--config-file", yaml, "--output-dir", f"{at}/b", *small, f"student.pretrained_weights={run}"],
        ["train", "--config-file", yaml, *small, f"train.output_dir={at}/c", f"start.run={run}"],
        [*job, "--cluster", f"{at}/cluster.yaml", "--gpus-per-node", "1", *small],
        [*job, "--local", *small],
        ["config", "explain", "optim"],
        ["config", "search", "adapters", "--task", "classify"],
        ["config", "default"],
        ["config", "diff", yaml, run],
        ["data", "check", data, "--config-file", yaml, "--out", f"{at}/check", "--workers", "0", *small],
        ["init", data, "--out", f"{at}/init.yaml"],
        ["da3-check", "--config-file", yaml, "--out", f"{at}/da3.png", *small, *DA3],
        ["plan", "--config-file", yaml, "--gpus", "2", "--card", "h100", *small],
        ["doctor", "--config-file", yaml, "--output-dir", run],
    ]


def of_a_backbone(at: str) -> list[list[str]]:
    data, run = f"{at}/{UMLAUTS}", f"{at}/run"
    frozen = ["--weights", run, "--size", "32", "--batch-size", "8"]
    tars = ["features", "--weights", run, "--data", data, "--out", f"{at}/tars"]
    return [
        ["features", *frozen, "--data", data, "--out", f"{at}/features"],
        [*tars, "--pool", "patches", "--layout", "webdataset"],
        ["eval", "knn", *frozen, "--train", data, "--out", f"{at}/knn.json", "--cache", f"{at}/cache"],
        ["eval", "linear", *frozen, "--train", data, "--epochs", "1"],
        ["export", run, "--out", f"{at}/exports/backbone.pth"],
        ["viz", "pca", *frozen, "--data", data, "--out", f"{at}/pca.png"],
        ["viz", "sim", *frozen, "--data", f"{data}/class 0/{UMLAUTS} 0.png", "--out", f"{at}/sim.png"],
        ["viz", "curves", "--weights", run, "--out", f"{at}/curves.png"],
        ["video", *frozen, "--input", f"{data}/class 0", "--out", f"{at}/film", "--render", "png"],
        [
            "bench",
            "infer",
            run,
            "--precision",
            "fp32",
            "int8",
            "--batch",
            "2",
            "--largest",
            "--out",
            f"{at}/bench.json",
        ],
        ["compress", run, "--quantize", "bf16", "--out", f"{at}/small.safetensors"],
        ["models"],
        ["models", run],
    ]


def of_diffusion(at: str) -> list[list[str]]:
    data, run, shards = f"{at}/{UMLAUTS}", f"{at}/run", f"{at}/shards"
    extract = ["dit", "extract", "--weights", run, "--data", data, "--out", shards, "--side", "32"]
    inputs = ["--text", "hash:4:8", "--latents", "pixels", "--captions", f"{at}/captions.jsonl"]
    train = ["dit", "train", "--config-file", f"{at}/dit.yaml", "--output-dir", f"{at}/dit"]
    sample = ["dit", "sample", f"{at}/dit", "--out", f"{at}/samples", "--weights", run, "--steps", "1", "--seeds", "0"]
    seen = [f"{data}/class {number}/{UMLAUTS} {number}.png" for number in (0, 1)]
    return [
        [*extract, *inputs, "--resolution-shift", "1", "--max-stretch", "2"],
        ["dit", "verify", shards],
        [*train, f"train.dataset_path={shards}"],
        [*sample, "--image", seen[0], "--mix", seen[1]],
        ["dit", "report", f"{at}/dit", "--baseline", f"{at}/dit", "--out", f"{at}/dit.html"],
    ]


def of_finetuning(at: str) -> list[list[str]]:
    data, start = f"{at}/{UMLAUTS}", f"model.weights={at}/run"
    masks = "Synthetic:n=10:size=32"
    segment = ["finetune", "--output-dir", f"{at}/segmented", "task=segment", start, *TUNED[1:]]
    return [
        ["finetune", "--output-dir", f"{at}/tuned", start, *TUNED, f"train.dataset_path={data}"],
        ["finetune", "evaluate", f"{at}/tuned", "--data", data, "--out", f"{at}/scores"],
        [*segment, f"train.dataset_path={masks}", "train.classes=15", "augment.crop=32"],
        ["finetune", "evaluate", f"{at}/segmented", "--data", masks, "--out", f"{at}/named"],
        ["finetune", "export", f"{at}/tuned", "--out", f"{at}/exports/tuned.onnx"],
        ["finetune", "report", f"{at}/tuned", f"{at}/scores", "--out", f"{at}/tuned.html"],
        ["pcam", "synth", "--out", f"{at}/pcam", "--n", "8", "--size", "16"],
        ["pcam", "verify", "--out", f"{at}/pcam"],
    ]


def of_runs(at: str) -> list[list[str]]:
    run = f"{at}/run"
    return [
        ["report", run, "--out", f"{at}/page.html"],
        ["report", run],
        ["runs", at],
        ["compare", run, f"{at}/b", "--out", f"{at}/compare.html"],
        ["completion", "bash"],
    ]


def prepare(folder: Path) -> None:
    """The files that the commands read."""
    images(folder / UMLAUTS)
    (folder / "tiny.yaml").write_text("train: {seed: 1}\n")
    (folder / "dit.yaml").write_text(DIT)
    rows = [json.dumps({"image": f"{index:09d}", "caption": UMLAUTS}) + "\n" for index in range(20)]
    (folder / "captions.jsonl").write_text("".join(rows))
    (folder / "cluster.yaml").write_text("partition: gpu\n")


def nobody(number: int) -> NoReturn:
    raise KeyError(number)


def main() -> None:
    from dinov3 import cli
    from dinov3.models.da3 import VARIANTS, DA3Spec
    from dinov3.weights import models_command as models

    at, results = sys.argv[1:]
    if "HOME" not in os.environ:  # nor does the list of users know one: a container under any number
        pwd.getpwuid = nobody
    VARIANTS["small"] = DA3Spec(32, 4, 2, alt_start=2)
    whole = models.model_lines
    models.model_lines = lambda: islice(whole(), 2)  # the largest take seconds
    prepare(Path(os.path.expanduser(at)))
    lowest = os.open(results, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    high = fcntl.fcntl(lowest, fcntl.F_DUPFD_CLOEXEC, 100)  # a closed standard error stays closed for the program
    os.close(lowest)
    with open(high, "w", encoding="utf-8") as file:
        for words in commands(at):
            try:
                code: object = cli.main(words)
            except SystemExit as end:
                code = f"usage: {end.code}"
            except BaseException as error:  # noqa: BLE001 - a traceback is what the test looks for
                code = f"{type(error).__name__}: {error}"
            print(json.dumps({"words": words, "code": code}), file=file, flush=True)


if __name__ == "__main__":
    main()
