"""The commands of README and of the pages it leads to run as printed: shrunk by overrides that are appended, nothing else changed."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3 import cli
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.models.build import build_backbone
from dinov3.weights.own import write_backbone
from tests.readme import PRESET, SMALL, argv_of, commands_of, is_slow, reason_to_skip, unabridged

ROOT = Path(__file__).resolve().parents[1]
# In this order: commands of a page may use what those of pages before it have made.
PAGES = ("README.md", *(f"docs/{name}.md" for name in ("use", "exports", "weights", "data", "machines", "reference")))
PAGE = "\n".join((ROOT / name).read_text() for name in PAGES)
COMMANDS = list(dict.fromkeys(unabridged(commands_of(PAGE))))
NEEDS = {"hf": "transformers", "timm": "timm", ".onnx": "onnxruntime", "logreg": "sklearn"}
MAY_END_WITH = {"doctor": {0, 1}}  # it judges this machine


def write_images(folder: Path, number: int, classes: int = 2) -> None:
    random = np.random.default_rng(0)
    for index in range(number):
        path = folder / f"class-{index % classes}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)


def write_weights(folder: Path, *words: str) -> None:
    """Weights of the student that README's recipe has with these overrides."""
    cfg = load_config(config_file("photos_vits"), words)
    backbone = build_backbone(cfg.student, img_size=32, drop_path=False)
    backbone.init_weights()
    write_backbone(folder, backbone, {"mean": cfg.crops.rgb_mean, "std": cfg.crops.rgb_std, "size": 32})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What README takes for granted: images, labelled images, weights; below the folder its commands run in."""
    here = tmp_path_factory.mktemp("readme")
    write_images(here / "images", 12)
    write_images(here / "labelled" / "train", 20)
    write_images(here / "labelled" / "test", 8)
    for name in ("cat", "dog"):
        Image.linear_gradient("L").convert("RGB").save(here / f"{name}.jpg")
    (here / "small").mkdir()
    write_weights(here / "small", *SMALL)
    assert cli.main(["export", str(here / "small"), "--out", str(here / "weights.pth")]) == 0
    return {
        "/path/to/images": here / "images",
        "/path/to/weights": here / "weights",
        "/shared": here / "shared",
        "PATH": here / "images",
    }


def run(command: str, places: Mapping[str, Path]) -> int:
    """What a command of README ends with."""
    with contextlib.chdir(places["PATH"].parent):
        try:
            return cli.main(argv_of(command, places))
        except SystemExit as end:
            return int(end.code or 0)


@pytest.fixture(scope="module")
def ended(places: Mapping[str, Path]) -> dict[str, int]:
    """What every fast command ended with, all run in the order of README: later ones use what earlier ones made."""
    return {c: run(c, places) for c in COMMANDS if reason_to_skip(c) is None and not is_slow(c)}


def skip_what_cannot_run_here(command: str) -> None:
    if reason := reason_to_skip(command):
        pytest.skip(reason)
    for word, package in NEEDS.items():
        if word in command and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


@pytest.mark.parametrize("command", [c for c in COMMANDS if not is_slow(c)])
def test_a_command_of_the_readme_runs(command: str, request: pytest.FixtureRequest) -> None:
    skip_what_cannot_run_here(command)
    assert request.getfixturevalue("ended")[command] in MAY_END_WITH.get(command.split()[1], {0})


@pytest.mark.nightly
@pytest.mark.parametrize("command", [c for c in COMMANDS if is_slow(c)])
def test_a_slow_command_of_the_readme_runs(command: str, ended: Mapping[str, int], places: Mapping[str, Path]) -> None:
    skip_what_cannot_run_here(command)
    if PRESET in command:
        places["/path/to/weights"].mkdir()
        write_weights(places["/path/to/weights"], *re.findall(rf"{PRESET}\S+", command))
    assert run(command, places) == 0


def test_a_command_is_read_as_a_shell_reads_it() -> None:
    page = "```bash\ndinov3 train --config-file a --output-dir b \\\n    x=1   # why\ndinov3 train … --print-config\n```\n```\nno\n```\n"
    assert unabridged(commands_of(page)) == [
        "dinov3 train --config-file a --output-dir b x=1",
        "dinov3 train --config-file a --output-dir b --print-config",
    ]
    assert argv_of("dinov3 report PATH/x", {"PATH": Path("/y")}) == ["report", "/y/x"]


def test_there_are_commands_to_run() -> None:
    assert len([c for c in COMMANDS if reason_to_skip(c) is None]) >= 20
