"""Reading an untrusted DA3 file: the right keys, or one line of refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor

from dinov3.weights.reading.da3_checkpoint import (
    MODEL_NAMES,
    Da3CheckpointError,
    Da3CheckpointNotFoundError,
    read_da3_weights,
    read_root,
)

EXPECTED = {"pretrained.a": (2, 3), "pretrained.b": (4,)}


def named(root: str, fill: float = 1.0) -> dict[str, Tensor]:
    return {f"{root}backbone.{key}": torch.full(shape, fill) for key, shape in EXPECTED.items()}


def write_config(folder: Path, name: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_name": name, "config": {}}))
    return path


def test_the_report_counts_what_was_loaded_and_what_was_left(tmp_path: Path) -> None:
    others = {"model.head.x": torch.ones(5), "model.head.y": torch.ones(1), "model.cam_dec.z": torch.ones(1)}
    save_file({**named("model."), **others}, tmp_path / "w.safetensors")
    state, report = read_da3_weights(tmp_path / "w.safetensors", "base", EXPECTED)
    assert state.keys() == EXPECTED.keys()
    assert (report.tensors, report.parameters) == (2, 10)
    assert report.ignored == {"model.head.": 2, "model.cam_dec.": 1}
    assert "loaded all 2 encoder tensors (10 weights); ignored: 2 of model.head.*, 1 of model.cam_dec.*" in str(report)


def test_weights_arrive_in_fp32_and_do_not_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({key: value.bfloat16() for key, value in named("model.").items()}, path)
    state, _ = read_da3_weights(path, "base", EXPECTED)
    assert {value.dtype for value in state.values()} == {torch.float32}
    save_file({key: value.float() for key, value in named("model.").items()}, path)
    state, _ = read_da3_weights(path, "base", EXPECTED)
    with path.open("r+b") as file:
        file.seek(-40, 2)
        file.write(b"\xff" * 40)
    assert all(bool((value == 1).all()) for value in state.values())


@pytest.mark.parametrize(("variant", "fill"), [("giant", 3.0), ("metric-large", 5.0)])
def test_a_nested_file_gives_either_of_its_two_encoders(tmp_path: Path, variant: str, fill: float) -> None:
    both = {**named("model.da3.", 3.0), **named("model.da3_metric.", 5.0)}
    both |= {"model.da3.head.x": torch.ones(1), "model.da3_metric.head.x": torch.ones(1)}
    save_file(both, tmp_path / "model.safetensors")
    write_config(tmp_path, "da3nested-giant-large")
    state, report = read_da3_weights(tmp_path, variant, EXPECTED)
    assert state["pretrained.a"].unique().tolist() == [fill]
    assert sum(report.ignored.values()) == 4


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("variant", ["small", "base", "large", "giant", "mono-large", "metric-large"])
def test_the_model_name_admits_its_own_variants_only(tmp_path: Path, name: str, variant: str) -> None:
    path = write_config(tmp_path, name.upper())
    if variant in MODEL_NAMES[name]:
        assert read_root(path, variant) == MODEL_NAMES[name][variant]
    else:
        with pytest.raises(Da3CheckpointError, match=rf"'{name.upper()}' contradicts da3.variant '{variant}'"):
            read_root(path, variant)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON: "),
        (b"\xff\xfe", "not JSON: |not text in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "no text under 'model_name'"),
        (b'{"model_name": 3}', "no text under 'model_name'"),
        (b'{"model_name": "vitb\\n16"}', r"'vitb\\n16' is unknown: known are da3-small, da3-base"),
        (b" " * ((1 << 20) + 1), "too large"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(Da3CheckpointError, match=message) as caught:
        read_root(tmp_path / "config.json", "base")
    assert "\n" not in str(caught.value)


def test_a_hostile_key_is_shown_on_one_short_line(tmp_path: Path) -> None:
    save_file({**named("model."), "x\n\x1b[31m" + "y" * 5000: torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(Da3CheckpointError, match=r"1 unexpected keys: x\\n\\x1b\[31my") as caught:
        read_da3_weights(tmp_path / "w.safetensors", "base", EXPECTED)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_at_most_five_keys_of_each_kind_are_listed(tmp_path: Path) -> None:
    expected = {f"pretrained.{i}": (i + 1,) for i in range(9)}
    strangers = {f"model.backbone.new.{i}": torch.ones(7) for i in range(7)}
    save_file({**strangers, "model.backbone.pretrained.0": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(Da3CheckpointError) as caught:
        read_da3_weights(tmp_path / "w.safetensors", "base", expected)
    text = str(caught.value)
    assert "8 missing keys: model.backbone.pretrained.1 [2], model.backbone.pretrained.2 [3], " in text
    assert "7 unexpected keys: model.backbone.new.0 [7], " in text
    assert text.count("model.backbone.new.") == 5
    assert "1 misshapen keys: model.backbone.pretrained.0 [2] but the encoder has [1]" in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "not a complete safetensors file"),
        (lambda content: content[:30], "not a readable safetensors file: ends early: download it again"),
        (lambda _: b"", "is empty: download it again"),
        (lambda content: (2**40).to_bytes(8, "little") + content[8:], f".* declares a header of {2**40} bytes"),
        (lambda content: (2**24 + 1).to_bytes(8, "little") + content[8:], ".* declares a header of 16777217 bytes"),
        (lambda content: content[:8] + b"x" * 50 + content[58:], "not a complete safetensors file"),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(damage(save(named("model."))))
    with pytest.raises(Da3CheckpointError, match=f"{path}: {message}"):
        read_da3_weights(path, "base", EXPECTED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a table of tensors"),
        ({"epoch": 3}, "holds no table of tensors, but 'epoch'"),
        ({1: 2}, "holds no table of tensors, but 1"),
        ({1: torch.ones(2)}, "its tensors have no names"),
    ],
)
def test_a_pth_without_named_tensors_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(Da3CheckpointError, match=message):
        read_da3_weights(tmp_path / "w.pth", "base", EXPECTED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def reads_or_refuses(path: Path) -> None:
    try:
        state, _ = read_da3_weights(path, "base", EXPECTED)
    except Da3CheckpointError as error:
        refusal = str(error)
    else:
        refusal = f"{path}"
        assert {key: tuple(value.shape) for key, value in state.items()} == EXPECTED
        if path.suffix == ".pth":  # it has checksums
            assert all(bool((value == 1).all()) for value in state.values())
    assert str(path) in refusal
    assert "\n" not in refusal


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damaged_byte_is_read_or_refused_but_never_crashes(folder: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".safetensors", ".pth"]))
    path = folder / f"w{suffix}"
    if suffix == ".pth":
        torch.save(named("model."), path)
    else:
        path.write_bytes(save(named("model.")))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.one_of(st.none(), st.integers(0, len(content))))])
    reads_or_refuses(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.ckpt").write_bytes(b"x")
    with pytest.raises(Da3CheckpointError, match=r"unknown kind of file: use a folder, .safetensors, .pth, .pt"):
        read_da3_weights(tmp_path / "w.ckpt", "base", EXPECTED)
    with pytest.raises(Da3CheckpointNotFoundError, match=r"model.safetensors does not exist"):
        read_da3_weights(tmp_path, "base", EXPECTED)
