"""Files that are no config end in one line; files that are keep their text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.config.yaml_file import MAX_BYTES, parse_yaml, read_yaml


def line_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


BAD_TEXT = {
    "empty": ("", "is empty"),
    "only comments": ("# nothing\n", "is empty"),
    "list": ("- a\n- b\n", "holds a list, blocks of keys are expected"),
    "value": ("hello", "holds a single value, blocks of keys are expected"),
    "two documents": (
        "a: 1\n---\nb: 2\n",
        "is not YAML: line 2: expected a single document in the stream but found another document",
    ),
    "broken": ("a: [1,\nb: 2", "is not YAML: line 2: expected ',' or ']', but got '<stream end>'"),
    "tab": ("a:\n\tb: 1", "is not YAML: line 2: found character '\\t' that cannot start any token"),
    "key twice": ("optim:\n  lr: 1\n  epochs: 2\n  lr: 3\n", "optim.lr: given twice, in lines 2 and 4"),
    "block twice": ("optim:\n  lr: 1\noptim:\n  lr: 1\n", "optim: given twice, in lines 1 and 3"),
    "code": (
        "train:\n  seed: !!python/object/apply:os.system ['true']",
        "train.seed: line 2: the tag !!python/object/apply:os.system is not allowed",
    ),
    "own tag": ("train: !mine {seed: 1}", "train: line 1: the tag !mine is not allowed"),
    "binary": ("train: {output_dir: !!binary aGk=}", "train.output_dir: line 1: the tag !!binary is not allowed"),
    "key that is a list": ("? [a, b]\n: 1", "line 1: a key must be a word"),
    "unknown anchor": ("a: *b", "is not YAML: line 1: found undefined alias 'b'"),
    "merge of a value": ("a: &a 3\nb:\n  <<: *a", "b: line 1: << needs a block of keys"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_a_file_that_is_no_config_gives_one_exact_line(tmp_path: Path, name: str) -> None:
    text, expected = BAD_TEXT[name]
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert line_of(path) == expected


def test_what_is_not_a_readable_file_says_so(tmp_path: Path) -> None:
    assert line_of(tmp_path / "none.yaml") == "no such file"
    assert line_of(tmp_path) == "is a folder, a YAML file is expected"
    assert line_of(tmp_path / "none.yaml" / "below") == "no such file"
    binary = tmp_path / "weights.pth"
    binary.write_bytes(b"PK\x03\x04\xff\xfe\x00")
    assert line_of(binary) == "is not a text file"
    big = tmp_path / "big.yaml"
    big.write_text("#" * (MAX_BYTES + 1))
    assert line_of(big) == f"has more than {MAX_BYTES} bytes, that is no config"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1")
    path.chmod(0)
    assert line_of(path) == "cannot be read: Permission denied"


def test_aliases_of_aliases_are_stopped_early(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path.write_text("\n".join(lines))
    assert "aliases stand for more than 100000 values" in line_of(path)


def test_an_alias_to_its_own_block_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a\n  b: *a\n")
    assert line_of(path).startswith("a.b: aliases stand for more than")


def test_scalars_stay_text_and_plain_null_is_none() -> None:
    text = "{a: 1e-4, b: 010, c: no, d: null, e: 'null', f: ~, g: 2020-01-01, h: '', i: , j: 1:30, k: =}"
    assert parse_yaml(text, "x") == {
        "a": "1e-4",
        "b": "010",
        "c": "no",
        "d": None,
        "e": "null",
        "f": None,
        "g": "2020-01-01",
        "h": "",
        "i": None,
        "j": "1:30",
        "k": "=",
    }


def test_merged_blocks_give_way_to_own_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("dino: &head {head_nlayers: 2, head_hidden_dim: 64}\nibot:\n  <<: *head\n  head_nlayers: 4\n")
    cfg = load_config(path)
    assert (cfg.ibot.head_nlayers, cfg.ibot.head_hidden_dim) == (4, 64)
    assert (cfg.dino.head_nlayers, cfg.dino.head_hidden_dim) == (2, 64)
