"""`dinov3 export`: read back by the program it is for, equal token by token, or not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinov3.cli import main as cli
from dinov3.data.torchvision_compat import prepare_torchvision
from dinov3.models.backbone import Backbone
from dinov3.train.command import main as train
from dinov3.weights import formats, onnx_graph
from dinov3.weights.export import FORMATS, export
from dinov3.weights.files import WeightsError
from dinov3.weights.fingerprint import procedural_image
from dinov3.weights.own import load_backbone, write_backbone
from dinov3.weights.parity import compare, tokens_of, worst_token
from tests.train.tiny import command
from tests.weights.random_models import tiny_convnext, tiny_vit

PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "size": 64}
NEEDS = {"hf": ("transformers",), "timm": ("timm",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
IMAGE = procedural_image(3, 64, 96)


def out_of(layout: str, folder: Path) -> Path:
    return folder / f"model{FORMATS[layout].suffix}"


def need(layout: str) -> None:
    prepare_torchvision()
    for package in NEEDS.get(layout, ()):
        pytest.importorskip(package)


def stored(model: Backbone, folder: Path) -> Path:
    folder.mkdir()
    write_backbone(folder, model, PREPROCESS)
    return folder


QUICK = [layout for layout in FORMATS if layout != "onnx"]  # torch's ONNX exporter takes ten seconds for any model
SLOW = pytest.param("onnx", marks=pytest.mark.nightly)


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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run; its rotary tables are in bf16, as in official training."""
    out = tmp_path_factory.mktemp("runs") / "photos"
    assert train(command(out, train__max_steps=2, wandb__project="secret-project")) == 0
    return out


def state_of(model: Backbone) -> dict[str, Tensor]:
    return dict(model.state_dict())


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
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.md", "model.pth"]


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


def test_the_model_card_tells_where_it_comes_from_and_no_secret(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "m.safetensors")
    card = (tmp_path / "m.md").read_text()
    for expected in (
        "photos, step 2, 16 images seen",
        "Synthetic:n=40:size=40 (fingerprint",
        "ViT, patch 8, width 64, 2 blocks, 2 heads, 2 storage tokens",
        "none: training began with random weights",
        "minus mean [0.485, 0.456, 0.406]",
        "tokens equal to",
        'features.load("m.safetensors")',
        "  n_storage_tokens: 2\n",
    ):
        assert expected in card
    assert str(run) not in card


def test_released_weights_keep_their_licence_in_the_card(tmp_path: Path) -> None:
    export(stored(tiny_vit(), tmp_path / "weights"), tmp_path / "m.safetensors")
    assert "weights: the licence of those weights goes on to apply" in (tmp_path / "m.md").read_text()


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

    def missing(name: str) -> None:
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
    ("notes.onnx", None, r"notes\.md: is in the way"),
    ("folder", "hf", "exists and is no export of this program"),
]


@pytest.mark.parametrize(("name", "layout", "message"), REFUSED)
def test_exporting_never_writes_over_another_file(name: str, layout: str | None, message: str, tmp_path: Path) -> None:
    source = stored(tiny_vit(), tmp_path / "in")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.md").write_text("mine")
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
    assert "onnxruntime.InferenceSession" in (tmp_path / "m.md").read_text()
