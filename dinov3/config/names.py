"""The names of all keys, and the nearest one to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from typing import Any, get_args, get_origin

from dinov3.config.errors import KeyProblem
from dinov3.config.schema import Config
from dinov3.config.spec import arms_of, block_of, hints, without_null


def _walk(block: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for f in fields(block):
        hint = hints(block)[f.name]
        yield prefix + f.name, hint
        if inner := block_of(hint):
            yield from _walk(inner, f"{prefix}{f.name}.")


def types_of_keys(root: type = Config) -> dict[str, Any]:
    """Type of every key and block, by dotted name, in the order of the schema."""
    cached: Callable[[object], dict[str, Any]] = _types_of_keys
    return cached(root)


@cache
def _types_of_keys(root: type) -> dict[str, Any]:
    return dict(_walk(root, ""))


def hint_of(key: str, root: type = Config) -> Any:
    """The type of a key; for an entry of a free dict, that of its values. Raises KeyProblem when there is no such key."""
    types = types_of_keys(root)
    parent = key.rpartition(".")[0]
    if key not in types and get_origin(types.get(parent)) is dict:
        return get_args(types[parent])[1]
    if key not in types:
        parts = key.split(".")
        raise unknown(next(p for i in range(len(parts)) if (p := ".".join(parts[: i + 1])) not in types), root)
    return types[key]


def accepts_text(hint: Any) -> bool:
    """True when a bare word is a legal value: text and named choices."""
    inner = without_null(hint)
    if arms := arms_of(inner):
        return any(accepts_text(arm) for arm in arms)
    return inner is str or any(isinstance(choice, str) for choice in get_args(inner) if not isinstance(choice, type))


def accepts_list(hint: Any) -> bool:
    """True when a list is a legal value."""
    return any(get_origin(arm) is list for arm in arms_of(hint) or (without_null(hint),))


# What other frameworks call our keys: last part of the name -> key.
ELSEWHERE = {
    **dict.fromkeys(("learning_rate", "lr_max", "base_lr"), "optim.lr"),
    **dict.fromkeys(("batch_size", "bs", "batch", "per_device_train_batch_size"), "train.batch_size_per_gpu"),
    **dict.fromkeys(("wd",), "optim.weight_decay"),
    **dict.fromkeys(("max_epochs", "num_epochs", "num_train_epochs", "n_epochs"), "optim.epochs"),
    **dict.fromkeys(("steps", "num_steps", "max_iter", "iterations"), "train.max_steps"),
    **dict.fromkeys(("data", "dataset", "data_path", "data_dir", "root", "train_dir", "images"), "train.dataset_path"),
    **dict.fromkeys(("workers", "n_workers"), "train.num_workers"),
    **dict.fromkeys(("model", "model_name", "backbone", "architecture"), "student.arch"),
    **dict.fromkeys(("weights", "checkpoint", "pretrained", "init_from"), "student.pretrained_weights"),
    **dict.fromkeys(("precision", "amp", "mixed_precision", "bf16", "fp16"), "compute_precision.param_dtype"),
    **dict.fromkeys(("image_size", "img_size", "input_size", "resolution", "crop_size"), "crops.global_crops_size"),
    **dict.fromkeys(
        ("gradient_clip", "grad_clip", "max_grad_norm", "gradient_clip_val", "gradient_clipping"), "optim.clip_grad"
    ),
    **dict.fromkeys(("accumulate_grad_batches", "accum", "grad_accum"), "train.gradient_accumulation_steps"),
    **dict.fromkeys(("ema", "momentum", "ema_decay"), "teacher.momentum_teacher"),
    **dict.fromkeys(("out", "output", "output_folder", "save_dir", "run_dir"), "train.output_dir"),
    **dict.fromkeys(("save_every", "save_steps", "checkpoint_every"), "checkpointing.period"),
    **dict.fromkeys(("warmup", "warmup_steps"), "optim.warmup_epochs"),
    **dict.fromkeys(("use_wandb", "report_to"), "wandb.enabled"),
}


def _spelling(name: str) -> str:
    """``learning_rate``, ``learning-rate`` and ``learningRate`` are one word."""
    return name.lower().replace("_", "").replace("-", "")


_SPELT = {_spelling(name): key for name, key in ELSEWHERE.items()}


def _sibling(key: str, root: type) -> str:
    """The key of the same block that is spelt much like ``key``; nothing when there is none."""
    block, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in types_of_keys(root) if k.rpartition(".")[0] == block}
    close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.75)
    return siblings[close[0]] if close else ""


def nearest(key: str, root: type = Config) -> list[str]:
    """Up to three keys that ``key`` may have meant: the nearest of its block, what other frameworks call so, or the same
    name in another block.
    """
    known, name = list(types_of_keys(root)), key.rpartition(".")[2]
    if sibling := _sibling(key, root):
        return [sibling]
    if (elsewhere := _SPELT.get(_spelling(name))) in known:
        return [elsewhere]
    same_name = [k for k in known if k.rpartition(".")[2] == name]
    if 0 < len(same_name) <= 3:
        return same_name
    return difflib.get_close_matches(key, known, n=1)


def _command_with(key: str, root: type) -> str:
    """Another command that has this key; nothing when none has, or when it is spelt much like one of ours, or what other
    frameworks call one.
    """
    if _sibling(key, root) or _spelling(key.rpartition(".")[2]) in _SPELT:
        return ""
    from dinov3.config.about.tasks import (  # which looks at the keys of all, by this module
        COMMANDS,
        root_of,
        tasks_with,
    )

    own = {command for task, command in COMMANDS.items() if root_of(task) is root}
    return next((COMMANDS[task] for task in tasks_with(key) if COMMANDS[task] not in own), "")


def unknown(key: str, root: type = Config) -> KeyProblem:
    """The error for a key that does not exist."""
    if key == "task" and root is Config:
        return KeyProblem(key, "is a key of `dinov3 finetune`: this YAML is for that command")
    if command := _command_with(key, root):
        return KeyProblem(key, f"unknown key here, `{command}` has it: is this YAML for that command?")
    if names := nearest(key, root):
        return KeyProblem(key, f"unknown key (did you mean {' or '.join(names)}?)")
    return KeyProblem(key, "unknown key (`dinov3 config search WORD` finds one, `dinov3 config default` shows all)")
