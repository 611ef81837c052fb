"""What a command line that cannot be meant so is answered with."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from dinov3.config.errors import ConfigError
from dinov3.config.names import nearest, types_of_keys
from dinov3.config.recipes import recipes

NEAR = 0.8  # likeness of an option to what was written, from which it may be meant
COMMAND_LINE = "command line"
RECIPES = "configs/train/photos_vits.yaml"
# What says which model is trained, or where that is written.
NAMES_A_MODEL = ("student.arch=", "student.preset=", "student.embed_dim=", "start.run=", "stages=")


def unrecognised(
    unknown: Sequence[str], argv: Sequence[str], *, takes_overrides: bool = True, options: Sequence[str] = ()
) -> str:
    """The message for arguments no parser knows: ``--optim.epochs=3`` is an override with dashes. ``argv``: all of them;
    ``options``: those that are known."""
    text = f"unrecognized arguments: {' '.join(unknown)}"
    first = next((word for word in unknown if word.startswith("--")), None)
    if first is None:
        return text
    name, equals, value = first.lstrip("-").partition("=")
    key = name.replace("-", "_")
    near_options = get_close_matches(f"--{name.replace('_', '-')}", options, 1, NEAR)
    if near_options and not (takes_overrides and key in types_of_keys()):
        return f"{text}: did you mean {near_options[0]}?"
    if not takes_overrides:
        return text
    if not equals:
        after = [word for word in argv[argv.index(first) + 1 :][:1] if not word.startswith("-")]
        value = after[0] if after else "VALUE"
    near = [key] if key in types_of_keys() else nearest(key)
    meant = f"{near[0]}={value}" if near else "key=value (`dinov3 config search WORD` finds the key)"
    return f"{text}\noverrides have no dashes: {meant}"


def not_an_override(word: str) -> str:
    """What is wrong with a word that is not key=value."""
    if word.startswith(("/", "./", "../", "~")) or Path(word).exists():
        option = "--config-file" if word.endswith((".yaml", ".yml")) else f"--config-file {RECIPES} train.dataset_path="
        return f"is a path, not key=value: write {option}{' ' if option.endswith('file') else ''}{word}"
    key, colon, value = word.partition(":")
    if key in types_of_keys():
        return f"is not key=value: write {key}={value if colon and value else 'VALUE'}, without a blank"
    if word in recipes():
        return f"is a recipe, not key=value: write --config-file {word}"
    return "is not key=value" if word.startswith("-") else "is neither a folder or file that is there nor key=value"


def refuse_a_model_nobody_chose(config_file: Path | None, overrides: Sequence[str]) -> None:
    """ConfigError when neither a file nor an override says what is trained.

    The defaults are those of a run on many GPUs: a ViT-L with 303 million parameters, 64 images a process.
    """
    if config_file is None and not any(word.startswith(NAMES_A_MODEL) for word in overrides):
        raise ConfigError(
            COMMAND_LINE,
            "--config-file",
            "is missing, and the default is a ViT-L of 303 million parameters for many GPUs: "
            "name a recipe (for example photos_vits), give a folder of images to have one chosen, "
            "or say student.arch=vit_large if that is meant",
        )
