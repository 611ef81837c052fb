"""The commands that a page of the documentation shows, and the places they speak of, for ``tests/test_readme.py``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

BLOCK = re.compile(r"^```(?:bash|console|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What every training command is shrunk by. They are appended; no word of the command is changed.
SMALL = (
    *("student.embed_dim=48", "student.depth=2", "student.num_heads=2", "student.drop_path_rate=0"),
    *("dino.head_n_prototypes=32", "dino.head_hidden_dim=32", "dino.head_bottleneck_dim=16"),
    *("ibot.head_n_prototypes=32", "ibot.head_hidden_dim=32", "ibot.head_bottleneck_dim=16"),
    *("crops.global_crops_size=32", "crops.local_crops_size=16", "crops.local_crops_number=2"),
    *("train.batch_size_per_gpu=4", "train.num_workers=0", "train.OFFICIAL_EPOCH_LENGTH=2", "optim.epochs=1"),
    *("optim.warmup_epochs=0", "teacher.warmup_teacher_temp_epochs=0", "optim.freeze_last_layer_epochs=0"),
    *("head_warmup.steps=1", "train.log_every=1", "compute_precision.param_dtype=fp32"),
)
# Words that are never to be run, and why.
SKIPPED = {
    "make": "installs packages from the network",
    "source": "is about the user's shell",
    "pip": "installs packages from the network",
    "torchrun": "needs several processes",
}
PRESET = "student.preset="  # decides the architecture, so nothing can be smaller
SLOW = (
    "models",
    "--format",
    ".onnx",
    "logreg",
    "compress",
    "synth-dense",
    " try",
    "eval match",
    "dit demo",
    PRESET,
)  # run by `make test-nightly`


def commands_of(page: str) -> list[str]:
    """Every command of the page's shell blocks on one line, without prompts and comments."""
    found: list[str] = []
    for block in BLOCK.findall(page):
        lines = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
        found += [text for line in lines if (text := re.sub(r"(^|\s)#.*", "", line.removeprefix("$ ")).strip())]
    return found


def unabridged(commands: Sequence[str]) -> list[str]:
    """``…`` filled in: what stood after an option the first time, or what training was told the last time."""
    full: list[str] = []
    options: dict[str, str] = {}
    arguments = ""
    for command in commands:
        text = command
        for option, value in options.items():
            text = text.replace(f"{option} …", f"{option} {value}")
        if "…" in text:
            text = text.replace("…", arguments)
        elif re.match(r"(python -m dinov3\.train|dinov3 (train|submit)) .*--config-file", text):
            arguments = re.search(r"--config-file \S+ --output-dir \S+", text)[0]  # type: ignore[index]
        options = dict(re.findall(r"(--\w+) ([^\s-]\S*)", text)) | options
        full.append(text)
    return full


def argv_of(command: str, places: Mapping[str, Path]) -> list[str]:
    """The words after ``dinov3`` (``python -m dinov3.train`` is ``train``), with the reader's own places put in."""
    words = shlex.split(command)
    words = ["train", *words[3:]] if words[:3] == ["python", "-m", "dinov3.train"] else words[1:]
    for name, place in places.items():
        words = [re.sub(rf"(^|=){re.escape(name)}(?=$|/)", rf"\g<1>{place}", word) for word in words]
    if words[:2] == ["data", "check"] or words[0] == "plan":
        return [*words, *SMALL]
    if words[0] not in ("train", "submit"):
        return words
    # the recipe's own images are those of a cluster
    small = [word for word in SMALL if not (PRESET in command and word.startswith("student."))]
    named = any(word.startswith("train.dataset_path=") for word in words) or (
        "=" not in words[1] and words[1][0] != "-"
    )
    return [*words, *small, *([] if named else ["train.dataset_path=Synthetic:n=40:size=40"])]


def reason_to_skip(command: str) -> str | None:
    """Why a command is not run at all."""
    if reason := SKIPPED.get(command.split()[0]):
        return reason
    if command.startswith("dinov3 submit") and not {"--dry-run", "--local"} & set(command.split()):
        return "needs SLURM"
    return None


def is_slow(command: str) -> bool:
    """Whether it takes more than a second or two on one core."""
    if command.startswith("dinov3 submit"):
        return "--local" in command
    return any(word in command for word in SLOW)
