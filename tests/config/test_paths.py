from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.config.blocks.model import DistilledStudentConfig
from dinov3.config.convert import convert_block
from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.config.spec import leaves

LEAVES = list(leaves(Config, Config()))
PATHS = [leaf.key for leaf in LEAVES if leaf.spec.path and not leaf.spec.dead]
# Text that says where something is, and is read by others: data sets expand their own paths (data/sources/options.py).
ELSEWHERE = {"train.dataset_path", "train.data_config", "optim.dump_fsdp_weights_path", "hrft.checkpoint_path"}


def value_of(cfg: Config, key: str) -> object:
    value: object = cfg
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("key", PATHS)
def test_a_tilde_in_a_path_is_the_home_folder(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    block, name = key.split(".")
    file = tmp_path / "config.yaml"
    file.write_text(f"{block}:\n  {name}: ~/there\n")
    for cfg in (load_config(file), load_config(None, [f"{key}=~/there"])):
        assert value_of(cfg, key) == f"{tmp_path}/there"


@pytest.mark.parametrize("key", PATHS)
def test_a_path_without_a_tilde_stays_as_it_was_written(key: str) -> None:
    assert value_of(load_config(None, [f"{key}=org/name"]), key) == "org/name"


def test_every_key_that_holds_a_path_says_so() -> None:
    endings = ("path", "_dir", "ckpt", "chkpt", "checkpoint", "_weights", ".run")
    named = {leaf.key for leaf in LEAVES if leaf.key.endswith(endings) and "str" in str(leaf.hint)}
    assert named - ELSEWHERE == set(PATHS)


def test_the_config_of_a_distilled_student_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    student = convert_block(
        {"name": "a", "config_path": "~/a.yaml", "ranks_range": ["0", "1"]}, DistilledStudentConfig, ""
    )
    assert student.config_path == f"{tmp_path}/a.yaml"
