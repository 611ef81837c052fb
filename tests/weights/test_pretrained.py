"""Starting from given weights: all of them or an error that names the key to change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3.config.schema import StudentConfig
from dinov3.models.build import build_backbone, build_preset
from dinov3.models.convnext import ConvNeXt
from dinov3.models.head import DINOHead
from dinov3.weights.files import WeightsError
from dinov3.weights.fingerprint import fingerprint, procedural_image
from dinov3.weights.own import write_backbone
from dinov3.weights.pretrained import LoadReport, as_json, inflated, load_start, report_from
from tests.weights.random_models import activated, tiny_convnext, tiny_vit, tokens_of
from tests.weights.test_layouts import hf_folder, timm_file

# The settings of tests/weights/random_models.py: tiny_vit, as a student's.
TINY = replace(
    StudentConfig(),
    arch="vit_small",
    embed_dim=64,
    depth=2,
    num_heads=2,
    n_storage_tokens=4,
    mask_k_bias=True,
    norm_layer="layernormbf16",
    pos_embed_rope_dtype="fp32",
    pos_embed_rope_rescale_coords=2.0,
    drop_path_rate=0.0,
)
IMAGE = procedural_image(3, 48, 64)


def student_of(cfg: StudentConfig) -> nn.ModuleDict:
    """Random backbone and heads."""
    heads = {
        name: DINOHead(in_dim=64, out_dim=16, hidden_dim=32, bottleneck_dim=8, nlayers=2)
        for name in ("dino_head", "ibot_head")
    }
    model = nn.ModuleDict({"backbone": build_backbone(cfg, img_size=64), **heads})
    for index, module in enumerate(model.values()):
        module.init_weights(torch.Generator().manual_seed(index))  # type: ignore[operator]
    return model


def start(path: Path, **changes: Any) -> tuple[nn.ModuleDict, LoadReport]:
    cfg = replace(TINY, **{"pretrained_weights": str(path)} | changes)
    student = student_of(cfg)
    report = load_start(student, cfg)
    assert report is not None
    return student, report


def meta_file(path: Path, state: Mapping[str, Tensor]) -> Path:
    torch.save(dict(state), path)
    return path


def written_as(layout: str, folder: Path) -> Path:
    model = tiny_vit()
    if layout == "Hugging Face":
        return hf_folder(model, folder / "hf")
    if layout == "timm":
        return timm_file(tiny_vit(num_heads=1), folder / "t.safetensors")
    if layout == "Meta":
        return meta_file(folder / "w.pth", model.state_dict())
    (folder / "ours").mkdir()
    write_backbone(folder / "ours", model, {})
    return folder / "ours"


@pytest.mark.parametrize("layout", ["Meta", "Hugging Face", "timm", "dinov3"])
def test_a_student_starts_with_the_features_of_the_file(layout: str, tmp_path: Path) -> None:
    heads = 1 if layout == "timm" else 2  # timm's files mean heads of 64 channels
    student, report = start(written_as(layout, tmp_path), num_heads=heads)
    expected = tokens_of(tiny_vit(num_heads=heads), IMAGE)
    torch.testing.assert_close(tokens_of(student["backbone"], IMAGE), expected, rtol=0, atol=1e-6)  # type: ignore[arg-type]
    assert report.layout == layout
    assert report.loaded == report.total
    assert report.heads == report.kept == report.ignored == []
    assert not report.has_heads
    assert any("heads missing: they start fresh" in line for line in report.lines())
    assert report_from(as_json(report)) == report


WRONG = [
    ({"n_storage_tokens": 0}, "student.n_storage_tokens: 0, the file has 4 storage tokens: set it to 4"),
    ({"mask_k_bias": False}, "student.mask_k_bias: false, the file has true: set it to true"),
    ({"ffn_layer": "swiglu"}, "student.ffn_layer: swiglu, the file has mlp: set it to mlp"),
    ({"ffn_ratio": 2.0}, "student.ffn_ratio: gives 128 hidden channels, the file has 256: set it to 4"),
    ({"layerscale": None}, "student.layerscale: the file has LayerScale: set it to 1e-5"),
    ({"patch_size": 8}, "student.patch_size: 8, the file has 16: set it to 16"),
    ({"qkv_bias": False}, "student.qkv_bias: false, the file has true: set it to true"),
    (
        {"untie_global_and_local_cls_norm": True},
        "student.untie_global_and_local_cls_norm: true, the file has false: set it to false",
    ),
    ({"norm_layer": "rmsnorm"}, "student.norm_layer: rmsnorm, the file has a LayerNorm"),
    ({"depth": 3}, "student.depth: 3, the file has 2: set it to 2"),
    ({"num_heads": 4}, "student.num_heads: 4, the file has 2: set it to 2"),
    ({"pos_embed_rope_base": 10.0}, "student.pos_embed_rope_base: gives other periods than the file's (1, "),
    ({"arch": "convnext_tiny", "embed_dim": None, "depth": None, "num_heads": None}, "student.arch: the file holds a "),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[next(iter(c)) for c, _ in WRONG])
def test_a_flag_that_differs_is_refused_by_name_with_the_way_out(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"w\.pth: the architecture differs: ") as caught:
        start(meta_file(tmp_path / "w.pth", tiny_vit().state_dict()), **changes)
    assert message in str(caught.value)


def test_all_that_differs_is_named_at_once(tmp_path: Path) -> None:
    together = {"n_storage_tokens", "mask_k_bias", "ffn_layer", "layerscale", "qkv_bias", "depth", "num_heads"}
    chosen = [(change, message) for change, message in WRONG if together & set(change) and "arch" not in change]
    changes = {key: value for change, _ in chosen for key, value in change.items()}
    with pytest.raises(WeightsError, match="the architecture differs") as caught:
        start(meta_file(tmp_path / "w.pth", tiny_vit().state_dict()), **changes)
    assert all(message.partition(":")[0] in str(caught.value) for _, message in chosen)
    assert "more" not in str(caught.value)


@pytest.mark.parametrize("layout", ["Hugging Face", "dinov3"])
def test_a_norm_epsilon_that_differs_is_refused_where_the_file_states_it(layout: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"student\.norm_layer: layernorm, .* has layernormbf16: set it to"):
        start(written_as(layout, tmp_path), norm_layer="layernorm")


def test_a_released_backbone_brings_the_settings_no_shape_shows(tmp_path: Path) -> None:
    released = activated(build_preset("dinov3_vits16", "cpu"))
    path = meta_file(tmp_path / "w.pth", released.state_dict())
    cfg = replace(
        TINY, embed_dim=None, depth=None, num_heads=None, pretrained_weights=str(path), norm_layer="layernorm"
    )
    student = nn.ModuleDict({"backbone": build_backbone(cfg, img_size=64)})
    student["backbone"].init_weights(torch.Generator())  # type: ignore[operator]
    message = (
        r"student\.norm_layer: layernorm, the file's model has layernormbf16.*student\.preset=dinov3_vits16 sets all"
    )
    with pytest.raises(WeightsError, match=message):
        load_start(student, cfg)
    report = load_start(student, replace(cfg, pretrained_allow=["student.norm_layer"]))
    assert report is not None
    assert "names and shapes are those of dinov3_vits16" in report.notes
    assert any(note.startswith("allowed: student.norm_layer: layernorm") for note in report.notes)


def test_a_student_of_another_size_than_released_weights_is_one_sentence(tmp_path: Path) -> None:
    path = meta_file(tmp_path / "w.pth", activated(build_preset("dinov3_vits16", "cpu")).state_dict())
    for arch, preset in (("vit_tiny", None), ("vit_base", "dinov3_vitb16"), ("convnext_tiny", None)):
        cfg = replace(StudentConfig(), arch=arch, preset=preset, pretrained_weights=str(path))
        student = nn.ModuleDict({"backbone": build_backbone(cfg, img_size=64)})
        with pytest.raises(WeightsError, match=r"set student\.preset=dinov3_vits16") as caught:
            load_start(student, cfg)
        text = str(caught.value)
        assert "these are the weights of dinov3_vits16 (a ViT of width 384 and 12 blocks)" in text
        assert "student.num_heads" not in text
        assert "student.embed_dim" not in text
        assert text.endswith(f"(now student.preset={preset})") == (preset is not None)


def broken(change: Any, tmp_path: Path) -> Path:
    state = {k: v.clone() for k, v in tiny_vit().state_dict().items()}
    change(state)
    return meta_file(tmp_path / "w.pth", state)


MISFITS = [
    (
        lambda s: s.pop("mask_token"),
        r"1 missing: backbone\.mask_token \(1, 64\)",
        "mask_token",
        ["backbone.mask_token"],
        [],
    ),
    (
        lambda s: s.update({"extra.a": torch.zeros(1), "extra.b": torch.zeros(2)}),
        r"2 unexpected: backbone\.extra\.a \(1,\), backbone\.extra\.b \(2,\)",
        "extra",
        [],
        ["backbone.extra.a", "backbone.extra.b"],
    ),
    (
        lambda s: s.update({"norm.weight": torch.zeros(8)}),
        r"1 of another shape: backbone\.norm\.weight \(8,\), student \(64,\)",
        "norm.w*",
        ["backbone.norm.weight"],
        [],
    ),
]


@pytest.mark.parametrize(("change", "message", "pattern", "kept", "ignored"), MISFITS)
def test_what_does_not_fit_is_an_error_unless_it_is_listed(
    change: Any, message: str, pattern: str, kept: list[str], ignored: list[str], tmp_path: Path
) -> None:
    path = broken(change, tmp_path)
    with pytest.raises(WeightsError, match=message):
        start(path)
    student, report = start(path, pretrained_allow=[pattern])
    assert (report.kept, report.ignored) == (kept, ignored)
    first = student_of(TINY).state_dict()
    assert all(torch.equal(student.state_dict()[k], first[k]) for k in kept)


def test_heads_are_loaded_when_the_file_has_them(tmp_path: Path) -> None:
    donor = student_of(TINY)
    for parameter in donor.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(9))
    path = meta_file(tmp_path / "teacher.pth", {f"teacher.{k}": v for k, v in donor.state_dict().items()})
    for key in ("pretrained_weights", "resume_from_teacher_chkpt"):
        student, report = start(path, **{"pretrained_weights": "", key: str(path)})
        assert report.has_heads
        assert all(torch.equal(v, donor.state_dict()[k]) for k, v in student.state_dict().items())
    wider = {k: torch.zeros(32, 8) if k == "dino_head.last_layer.weight" else v for k, v in donor.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 of another shape: dino_head\.last_layer\.weight \(32, 8\)"):
        start(meta_file(path, wider))


def test_a_teacher_checkpoint_without_heads_is_refused_where_heads_are_wanted(tmp_path: Path) -> None:
    path = meta_file(tmp_path / "w.pth", tiny_vit().state_dict())
    with pytest.raises(
        WeightsError, match=r"wants the heads, dino_head, ibot_head is missing: use student.pretrained_w"
    ):
        start(path, pretrained_weights="", resume_from_teacher_chkpt=str(path))


@pytest.mark.parametrize("channels", [1, 2, 4, 8])
def test_an_image_equal_in_all_channels_keeps_its_tokens_when_channels_change(channels: int, tmp_path: Path) -> None:
    student, report = start(meta_file(tmp_path / "w.pth", tiny_vit().state_dict()), in_chans=channels)
    grey = procedural_image(1, 48, 64)
    expected = tokens_of(tiny_vit(), grey.expand(1, 3, 48, 64))
    found = tokens_of(student["backbone"], grey.expand(1, channels, 48, 64))  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert f"first layer: 3 image channels to {channels}: their mean, times 3/{channels}" in report.notes


def test_the_filters_of_a_stem_are_what_sees_the_channels(tmp_path: Path) -> None:
    donor = tiny_vit(stem="whitened")
    student, report = start(meta_file(tmp_path / "w.pth", donor.state_dict()), in_chans=1, stem="whitened")
    first = student["backbone"].state_dict()["patch_embed.filters.weight"]
    torch.testing.assert_close(first, donor.state_dict()["patch_embed.filters.weight"].sum(1, keepdim=True))
    assert "first layer: 3 image channels to 1: their mean, times 3/1" in report.notes


def test_inflation_is_the_mean_times_the_ratio_of_channels() -> None:
    weight = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
    assert inflated(weight, 2).flatten().tolist() == [4.5, 4.5]


def test_convnext_starts_too(tmp_path: Path) -> None:
    model, student = tiny_convnext(), ConvNeXt(depths=[1, 1, 2, 1], dims=[8, 16, 24, 32])
    student.init_weights(torch.Generator().manual_seed(5))
    cfg = replace(StudentConfig(), arch="convnext_tiny", pretrained_weights=str(hf_folder(model, tmp_path / "hf")))
    report = load_start(nn.ModuleDict({"backbone": student}), cfg)
    assert report is not None
    assert report.loaded == report.total
    image = procedural_image(3, 64, 64)
    assert torch.equal(tokens_of(student, image), tokens_of(model, image))


def exported(folder: Path, numbers: list[float]) -> Path:
    """A backbone of ours with a fingerprint in its description."""
    folder.mkdir()
    write_backbone(folder, tiny_vit(), {})
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"fingerprint": numbers}))
    return folder


def test_stored_features_are_compared_after_loading(tmp_path: Path) -> None:
    numbers = fingerprint(tiny_vit())
    _, report = start(exported(tmp_path / "good", numbers))
    assert any("as stored" in note for note in report.notes)
    with pytest.raises(WeightsError, match="the features after loading are not those stored with it"):
        start(exported(tmp_path / "bad", [*numbers[:-1], numbers[-1] + 1.0]))


def test_the_fingerprint_sees_what_shapes_do_not_show() -> None:
    reference = torch.tensor(fingerprint(tiny_vit()))
    for other in (tiny_vit(num_heads=1), tiny_vit(seed=1), tiny_vit(pos_embed_rope_base=50.0)):
        assert (torch.tensor(fingerprint(other)) - reference).norm() > 1e-2 * reference.norm()
    assert fingerprint(tiny_vit()) == fingerprint(tiny_vit())
