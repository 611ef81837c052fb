"""`dinov3 export`: read back by the program it is for, equal token by token, or not there at all."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dinov3.cli import main as cli
from dinov3.config.schema import StudentConfig
from dinov3.models.backbone import Backbone
from dinov3.models.presets import PRESETS
from dinov3.weights import formats, onnx_graph
from dinov3.weights.export import card_of, export
from dinov3.weights.files import WeightsError
from dinov3.weights.fingerprint import procedural_image
from dinov3.weights.names.translation import export_limits
from dinov3.weights.own import export_heads, load_backbone, without_aliases
from dinov3.weights.parity import compare, tokens_of, worst_token
from tests.weights.exported import NEEDS, PREPROCESS, QUICK, SLOW, need, out_of, state_of, stored
from tests.weights.random_models import tiny_convnext, tiny_preset, tiny_vit

IMAGE = procedural_image(3, 64, 96)


@pytest.mark.parametrize("build", [tiny_vit, tiny_convnext])
@pytest.mark.parametrize("layout", [*QUICK, SLOW])
def test_every_format_says_how_equal_it_is_and_comes_back(layout: str, build: Any, tmp_path: Path) -> None:
    need(layout)
    model = build()
    lines = export(stored(model, tmp_path / "in"), out_of(layout, tmp_path / "out"), layout=layout)
    assert lines[0] == str(out_of(layout, tmp_path / "out"))
    assert float(lines[1].split("equal to ")[1].split()[0]) <= 1e-5
    if layout != "onnx":
        again = load_backbone(lines[0])
        torch.testing.assert_close(tokens_of(again, IMAGE), tokens_of(model, IMAGE), rtol=0, atol=1e-5)
        assert again.preprocess == PREPROCESS


@pytest.mark.parametrize("heads", [False, True])
def test_an_official_file_of_a_run_is_its_ema_backbone(run: Path, heads: bool, tmp_path: Path) -> None:
    path = tmp_path / "out" / "model.pth"
    export(run, path, heads=heads)
    own, again = state_of(load_backbone(run)), state_of(load_backbone(path))
    assert own.keys() == again.keys()
    assert all(torch.equal(own[k], again[k]) for k in own)
    content = torch.load(path, weights_only=True)
    roots = {k.split(".")[0] for k in content["teacher"]} if heads else {"cls_token"} & set(content)
    assert roots == ({"backbone", "dino_head", "ibot_head"} if heads else {"cls_token"})
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.pth", "model.pth.md"]


def test_a_hugging_face_folder_of_a_run_has_all_that_transformers_wants(run: Path, tmp_path: Path) -> None:
    need("hf")
    lines = export(run, tmp_path / "hf", layout="hf")
    assert any("rotary tables and periods are computed in float32 there, here in bf16" in line for line in lines)
    names = sorted(p.name for p in (tmp_path / "hf").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert len({(tmp_path / "hf" / name).stat().st_mode for name in names}) == 1  # all readable by the same people
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    pixels = processor(torch.zeros(3, 50, 70, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    expected = [-m / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    assert pixels[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


GOLDEN = Path(__file__).parents[1] / "golden" / "data"


def official_names(name: str) -> set[str]:
    """Recorded from the official code."""
    return {key for key, *_ in json.loads((GOLDEN / "F01_architectures.json").read_text())[name]["keys"]}


def of_few_blocks(names: set[str], kept: Backbone) -> set[str]:
    """Those of the blocks that a model of less depth has."""
    blocks = {".".join(k.split(".")[:2]) for k in kept.state_dict() if k.startswith("blocks.")}
    cells = {".".join(k.split(".")[:3]) for k in kept.state_dict() if k.startswith("stages.")}
    return {
        k
        for k in names
        if not k.startswith(("blocks.", "stages."))
        or ".".join(k.split(".")[:2]) in blocks
        or ".".join(k.split(".")[:3]) in cells
    }


@pytest.mark.parametrize("name", PRESETS)
def test_exported_names_are_those_of_the_official_code_for_every_architecture(name: str, tmp_path: Path) -> None:
    model = tiny_preset(name)
    export(stored(model, tmp_path / "in"), tmp_path / "m.pth")
    expected = of_few_blocks(official_names(name), model)
    assert set(torch.load(tmp_path / "m.pth", weights_only=True)) == expected
    heads = {"dino_head.mlp.0.weight": torch.ones(2), "ibot_head.last_layer.weight": torch.ones(2)}
    teacher = {f"backbone.{k}": v for k, v in without_aliases(model).items()} | heads
    save_file({k: v.detach().contiguous() for k, v in teacher.items()}, tmp_path / "t.safetensors")
    export_heads(tmp_path / "t.safetensors", tmp_path / "heads.pth")
    written = set(torch.load(tmp_path / "heads.pth", weights_only=True)["teacher"])
    assert written == {f"backbone.{k}" for k in expected} | set(heads)


def test_a_teacher_checkpoint_of_a_run_has_the_names_of_the_official_one(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "heads.pth", heads=True)
    written = set(torch.load(tmp_path / "heads.pth", weights_only=True)["teacher"])
    recorded = json.loads((GOLDEN / "F02_checkpoint_layouts.json").read_text())["teacher_checkpoint"]
    heads = {key for key, *_ in recorded if not key.startswith("backbone.")}
    assert kinds_of({k for k in written if not k.startswith("backbone.")}) == kinds_of(heads)
    assert {k for k in written if k.startswith("backbone.")} == {f"backbone.{k}" for k in state_of(load_backbone(run))}


def kinds_of(names: set[str]) -> set[str]:
    """Names without their numbers."""
    return {".".join(part for part in k.split(".") if not part.isdigit()) for k in names}


def test_a_backbone_with_key_biases_goes_to_timm_too(tmp_path: Path) -> None:
    need("timm")
    model = tiny_vit(mask_k_bias=False)
    lines = export(stored(model, tmp_path / "in"), tmp_path / "m.safetensors", layout="timm")
    assert "attn_type='rope'" in card_of(tmp_path / "m.safetensors").read_text()
    again = load_backbone(lines[0])
    torch.testing.assert_close(tokens_of(again, IMAGE), tokens_of(model, IMAGE), rtol=0, atol=1e-5)


def test_what_could_not_be_exported_is_known_before_training_begins() -> None:
    assert export_limits(StudentConfig()) == []
    assert export_limits(StudentConfig(mask_k_bias=False)) == []
    assert export_limits(StudentConfig(arch="convnext_tiny", norm_layer="rmsnorm")) == []
    (line,) = export_limits(StudentConfig(pos_embed_rope_base=50.0))
    assert line.startswith("not exportable with --format timm: timm has no words for student.pos_embed_rope_base=50.0")
    assert [line.split(":")[0].split()[-1] for line in export_limits(StudentConfig(norm_layer="rmsnorm"))] == [
        "hf",
        "timm",
    ]


def wrong_tokens(other: Any) -> Any:
    """The comparison, of tokens in which the patches are one place off."""
    return lambda backbone, run, what: compare(backbone, lambda x: run(x).roll(1, 1), what)


@pytest.mark.parametrize("layout", [*QUICK, SLOW])
def test_an_export_that_gives_other_tokens_leaves_nothing(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(layout)
    source = stored(tiny_vit(), tmp_path / "in")
    for module in (formats, onnx_graph):
        monkeypatch.setattr(module, "compare", wrong_tokens(None))
    with pytest.raises(WeightsError, match=r"does not give the backbone's tokens: on 1 x .* nothing was written"):
        export(source, out_of(layout, tmp_path / "new" / "out"), layout=layout)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("layout", NEEDS)
def test_a_missing_package_is_one_line_that_says_what_to_install(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = stored(tiny_vit(), tmp_path / "in")

    whole = formats.importlib.import_module

    def missing(name: str) -> ModuleType:
        if name.startswith("dinov3."):
            return whole(name)
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(formats.importlib, "import_module", missing)
    code = cli(["export", str(source), "--format", layout, "--out", str(out_of(layout, tmp_path))])
    assert code == 78
    assert capsys.readouterr().err.count(f"pip install 'dinov3[{layout}]'") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


REFUSED = [
    ("model.bin", None, r"its ending says no format: add --format meta\|"),
    ("model.pth", "onnx", r"ends in \.onnx for --format onnx"),
    ("model.pth", "hf", "writes a folder: give its name"),
    ("folder", "meta", r"give a file name that ends in \.pth"),
    ("folder.pth", None, "is a folder"),
    ("config.pth", None, "not the description"),
    ("notes.onnx", None, r"notes\.onnx\.md: is in the way"),
    ("folder", "hf", "exists and is no export of this program"),
]


@pytest.mark.parametrize(("name", "layout", "message"), REFUSED)
def test_exporting_never_writes_over_another_file(name: str, layout: str | None, message: str, tmp_path: Path) -> None:
    source = stored(tiny_vit(), tmp_path / "in")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.onnx.md").write_text("mine")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(WeightsError, match=message):
        export(source, tmp_path / name, layout=layout)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    need("hf")
    first, second = stored(tiny_vit(0), tmp_path / "a"), stored(tiny_vit(1), tmp_path / "b")
    for layout in ("safetensors", "hf"):
        for source in (first, second):
            export(source, out_of(layout, tmp_path), layout=layout)
        again = state_of(load_backbone(out_of(layout, tmp_path)))
        assert torch.equal(again["cls_token"], tiny_vit(1).cls_token)
        assert "was there already: replaced" in export(second, out_of(layout, tmp_path), layout=layout)[-1]


def test_an_export_whose_description_is_another_models_is_refused(tmp_path: Path) -> None:
    described = {}
    for seed in (0, 1):
        export(stored(tiny_vit(seed), tmp_path / f"in{seed}"), path := tmp_path / f"{seed}.safetensors")
        with safe_open(path, framework="pt") as file:
            described[seed] = file.metadata()
    save_file(load_file(tmp_path / "0.safetensors"), tmp_path / "0.safetensors", described[1])
    with pytest.raises(WeightsError, match="its features are not those it was exported with"):
        load_backbone(tmp_path / "0.safetensors")


@pytest.mark.parametrize("other", [{"layerscale_init": None}, {"mask_k_bias": False}, {"num_heads": 1}])
def test_what_hugging_face_and_timm_need_besides_is_written_inert(other: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_vit(norm_layer="layernorm", proj_bias=False, ffn_bias=False, **other)
    source = stored(model, tmp_path / "in")
    for layout in ("hf", "timm"):
        need(layout)
        again = load_backbone(export(source, out_of(layout, tmp_path), layout=layout)[0])
        torch.testing.assert_close(tokens_of(again, IMAGE), tokens_of(model, IMAGE), rtol=0, atol=1e-5)


def test_parity_is_the_worst_relative_token() -> None:
    a = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    assert worst_token(a + torch.tensor([[[0.0, 0.0], [0.0, 0.1]]]), a) == pytest.approx(0.1)
    assert worst_token(a[:, :1], a) == worst_token(a * float("nan"), a) == float("inf")


def test_onnxruntime_gives_the_same_tokens_also_on_a_size_the_export_never_saw(tmp_path: Path) -> None:
    need("onnx")
    import onnxruntime

    model = tiny_vit(in_chans=1, depth=1)
    lines = export(stored(model, tmp_path / "in"), tmp_path / "m.onnx")  # compares on three sizes itself
    assert float(lines[1].split("equal to ")[1].split()[0]) <= 1e-5
    session = onnxruntime.InferenceSession(lines[0], providers=["CPUExecutionProvider"])
    images = procedural_image(1, 16, 112).repeat(4, 1, 1, 1)
    cls, storage, patches = session.run(None, {"images": images.numpy()})
    found = torch.cat([torch.from_numpy(cls)[:, None], torch.from_numpy(storage), torch.from_numpy(patches)], dim=1)
    torch.testing.assert_close(found, tokens_of(model, images), rtol=0, atol=1e-5)
    assert "onnxruntime.InferenceSession" in (tmp_path / "m.onnx.md").read_text()
