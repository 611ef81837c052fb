"""A compressed model on disk: what comes back is what was written, and whatever cannot be said is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinov3 import features
from dinov3.cli import main as cli
from dinov3.compress.energy import prune
from dinov3.compress.errors import CompressError
from dinov3.compress.measure import Closeness, closeness_of_output, file_bytes
from dinov3.compress.quantize import quantized, rounded_to_bf16
from dinov3.compress.surgery import rebuilt
from dinov3.compress.written import check_format, write
from dinov3.config.schema import StudentConfig
from dinov3.models.build import describe_backbone
from dinov3.weights.export import card_of, export
from dinov3.weights.files import WeightsError
from dinov3.weights.own import load_backbone, write_backbone
from dinov3.weights.parity import tokens_of
from dinov3.weights.pretrained import load_start
from dinov3.weights.provenance import Facts
from tests.compress.models import batches, images, vit

PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "size": 32}


def cut_vit(**settings: Any) -> Any:
    model = vit(**settings)
    for rule in ("heads", "mlp", "svd"):
        prune(model, rule, 0.8)
    return rebuilt(model)


@pytest.mark.parametrize("ffn_layer", ["mlp", "swiglu"])
@pytest.mark.parametrize("number_format", ["none", "int8", "int8-dynamic"])
def test_it_comes_back_bit_for_bit(number_format: str, ffn_layer: str, tmp_path: Path) -> None:
    small = cut_vit(ffn_layer=ffn_layer)
    written = write(small, number_format, tmp_path / "m.safetensors", Facts(PREPROCESS), [])
    kinds = {"int8": "weight_only", "int8-dynamic": "dynamic"}
    meant = quantized(small, kinds[number_format]) if number_format in kinds else small
    again = load_backbone(tmp_path / "m.safetensors")
    assert torch.equal(tokens_of(again, images(3)), tokens_of(meant, images(3)))
    assert torch.equal(written.run(images(3)), tokens_of(meant, images(3)))
    assert describe_backbone(again) == describe_backbone(meant)
    extractor = features.load(tmp_path / "m.safetensors", size=32)
    assert extractor.extract(torch.rand(3, 40, 40), pool="cls").shape == (1, 32)


def test_bfloat16_halves_the_file_and_its_values_come_back(tmp_path: Path) -> None:
    model = vit(embed_dim=64, depth=4, n_storage_tokens=0)
    for number_format in ("none", "bf16"):
        write(model, number_format, tmp_path / f"{number_format}.safetensors", Facts(PREPROCESS), [])
    sizes = [
        sum(v.numel() * v.element_size() for v in load_file(tmp_path / f"{name}.safetensors").values())
        for name in ("bf16", "none")
    ]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.02)
    again = load_backbone(tmp_path / "bf16.safetensors")
    assert torch.equal(tokens_of(again, images(2)), tokens_of(rounded_to_bf16(model), images(2)))


def test_eight_bits_take_about_a_quarter(tmp_path: Path) -> None:
    model = vit(embed_dim=128, depth=4, ffn_ratio=4.0)
    for number_format in ("none", "int8"):
        write(model, number_format, tmp_path / f"{number_format}.safetensors", Facts(PREPROCESS), [])
    assert file_bytes(tmp_path / "int8.safetensors") < 0.35 * file_bytes(tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_export_writes_a_cut_model_in_our_layouts_and_its_card_names_the_widths(name: str, tmp_path: Path) -> None:
    small = cut_vit()
    (tmp_path / "in").mkdir()
    write_backbone(tmp_path / "in", small, PREPROCESS)
    export(tmp_path / "in", tmp_path / name)
    assert torch.equal(tokens_of(load_backbone(tmp_path / name), images(2)), tokens_of(small, images(2)))
    card = card_of(tmp_path / name).read_text()
    assert f"| block 0 | {small.config.block_shapes[0].heads} heads, " in card


@pytest.mark.parametrize("layout", ["hf", "timm"])
def test_layouts_without_words_for_it_refuse_in_one_line(layout: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_backbone(tmp_path / "in", cut_vit(), PREPROCESS)
    out = tmp_path / ("out" if layout == "hf" else "out.safetensors")
    with pytest.raises(WeightsError, match=r"no words for block_shapes: a compressed model: use --format safetensors"):
        export(tmp_path / "in", out, layout=layout)
    assert not out.exists()


def test_a_run_does_not_start_from_a_compressed_model_as_if_it_were_whole(tmp_path: Path) -> None:
    write(cut_vit(), "int8", tmp_path / "m.safetensors", Facts(PREPROCESS), [])
    student = StudentConfig(pretrained_weights=str(tmp_path / "m.safetensors"))
    with pytest.raises(WeightsError, match=r"a compressed model \(block_shapes, int8\)"):
        load_start(torch.nn.ModuleDict({"backbone": vit()}), student)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda shape: shape.update(hidden=60000), "says 60000 for blocks.0.mlp.fc2"),
        (lambda shape: shape["ranks"].update(q=shape["ranks"]["q"] + 1), "for blocks.0.attn.qkv.q.second.weight"),
        (lambda shape: shape.update(hidden="wide"), "hidden is 'wide'"),
        (lambda shape: shape.update(depth=1), "a block has heads, hidden and ranks"),
        (lambda shape: shape.update(ranks=[1]), "a block has heads, hidden and ranks"),
    ],
)
def test_a_description_of_other_widths_than_the_tensors_is_refused(
    change: Callable[[dict[str, Any]], None], text: str, tmp_path: Path
) -> None:
    write_backbone(tmp_path, cut_vit(), PREPROCESS)
    described = json.loads((tmp_path / "config.json").read_text())
    change(described["config"]["block_shapes"][0])
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(WeightsError, match=text):
        load_backbone(tmp_path)


def test_integers_without_a_description_are_refused(tmp_path: Path) -> None:
    write(vit(), "int8", tmp_path / "m.safetensors", Facts(PREPROCESS), [])
    save_file(load_file(tmp_path / "m.safetensors"), tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="holds integers, and no description of ours"):
        load_backbone(tmp_path / "bare.safetensors")


def test_models_prints_the_widths_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = cut_vit()
    write(small, "none", tmp_path / "m.safetensors", Facts(PREPROCESS), [])
    assert cli(["models", str(tmp_path / "m.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GFLOP@32" in lines[0]
    assert lines[1].startswith(f"block  0: {small.config.block_shapes[0].heads} heads, ")


def test_onnx_in_eight_bits_is_measured_as_it_lies_there(tmp_path: Path) -> None:
    small = cut_vit(depth=1)
    calibration = batches(16)
    written = write(small, "onnx-int8", tmp_path / "m.onnx", Facts(PREPROCESS), calibration)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert written.float_onnx is not None
    exact = closeness_of_output(written.float_onnx, small, calibration)
    rounded = closeness_of_output(written.run, small, calibration)
    assert exact.least > 1 - 1e-6
    assert 0.98 < rounded.mean < 1 - 1e-7  # near, and truly rounded
    assert "matrices" in written.notes[0]


@pytest.mark.parametrize(
    ("number_format", "name", "text"),
    [
        ("none", "m.bin", r"ends in \.safetensors or \.onnx"),
        ("int8", "m.onnx", "int8 writes a .safetensors file"),
        ("onnx-int8", "m.safetensors", "onnx-int8 writes an .onnx file"),
        ("onnx-int8", "m.onnx", "needs --calibrate"),
    ],
)
def test_formats_and_endings_that_do_not_go_together(number_format: str, name: str, text: str) -> None:
    with pytest.raises(CompressError, match=text):
        check_format(number_format, Path(name), calibrated=False)


def test_closeness_is_one_for_the_model_itself() -> None:
    model = vit()
    same = closeness_of_output(lambda x: tokens_of(model, x), model, batches(8))
    assert same.mean == pytest.approx(1.0)
    assert isinstance(same, Closeness)
