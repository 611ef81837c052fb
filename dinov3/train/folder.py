"""``dinov3 train FOLDER``: images in, a recipe chosen for them and for this machine. And images that are not there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dinov3.advice.choices import choices_for, words_of
from dinov3.advice.command import of_images, of_machine
from dinov3.advice.facts import Case, look_at, this_machine
from dinov3.config.arguments import COMMAND_LINE
from dinov3.config.errors import ConfigError
from dinov3.config.load import OVERRIDE
from dinov3.config.schema import Config
from dinov3.data.decode import SUFFIXES
from dinov3.data.errors import DataError
from dinov3.data.preflight import refuse_missing
from dinov3.data.sources import open_dataset
from dinov3.data.sources.parse import BY_SUFFIX, module_of
from dinov3.system.paths import expanded

STORED = (*BY_SUFFIX, ".json", ".arrow")  # files that may hold images
KEY = "train.dataset_path"
MAX_BAD = "data.max_bad_frac"


class Chosen(NamedTuple):
    """What a command line without words for it means."""

    config: Path | None
    opts: list[str]
    said: str  # a line of the start-up block; empty when nothing was chosen


def take_folder(config: Path | None, opts: Sequence[str]) -> Chosen:
    """A folder, or a data set, among the overrides becomes ``train.dataset_path``; without a config a recipe is chosen.

    Raises ConfigError and DataError. torch is loaded only when there are images.
    """
    folders = [word for word in opts if is_data(word)]
    if not folders:
        return Chosen(config, list(opts), "")
    rest = [word for word in opts if not is_data(word)]
    if len(folders) > 1 or any(word.startswith(f"{KEY}=") for word in rest):
        raise ConfigError(COMMAND_LINE, folders[-1], f"images are given twice: give one folder, or {KEY}=[A, B]")
    own = [f"{KEY}={folders[0]}", *rest]
    if config is not None:
        return Chosen(config, own, "")
    case = Case(look_at(folders[0]), this_machine())
    choices = choices_for(case)
    given = any(word.startswith(f"{MAX_BAD}=") for word in rest)
    allowed = None if given else next((choice.keys[MAX_BAD] for choice in choices if MAX_BAD in choice.keys), None)
    said = (
        f"recipe     chosen: {of_images(case.data)}{_told(allowed)}; {of_machine(case.machine)}. "
        f"`dinov3 init {shlex.quote(folders[0])}` writes it down with its reasons; --config-file NAME takes another"
    )
    return Chosen(None, [*words_of(choices), *rest], said)


def _told(allowed: float | None) -> str:
    """Behind the share of unreadable images, which ``of_images`` says last."""
    return "" if allowed is None else f" (the run goes on with up to {allowed:.1%}, {MAX_BAD})"


def is_data(word: str) -> bool:
    """Whether a word of the command line names images, not a key."""
    if OVERRIDE.fullmatch(word) or word.endswith((".yaml", ".yml")):
        return False
    name, colon, _ = word.partition(":")
    return (
        word.startswith(("/", "./", "../", "~"))
        or expanded(word).exists()
        or (bool(colon) and name.isidentifier() and module_of(name) is not None)
    )


def refuse_missing_images(cfg: Config) -> None:
    """DataError when a folder or file of images is missing or holds none: seconds before torch is loaded."""
    given = cfg.train.dataset_path
    for part in given if isinstance(given, list) else [given]:
        text = part if isinstance(part, str) else part.path
        if ":" in text:
            refuse_missing(text)
        elif not _may_hold_images(expanded(text)):
            source = open_dataset(text)  # says what is wrong, in its own words
            if len(source) == 0:
                raise DataError(f"{text}: contains no images")


def _may_hold_images(path: Path) -> bool:
    """Whether a file is there whose name is that of an image or of something that holds images; the first one is enough."""
    if not path.is_dir():
        return path.is_file()
    endings = (*SUFFIXES, *map(os.fsencode, STORED))  # names are bytes: they need not be text
    # what is reached through links only is found by whoever opens the folder
    return any(name.lower().endswith(endings) for _, _, names in os.walk(os.fsencode(path)) for name in names)
