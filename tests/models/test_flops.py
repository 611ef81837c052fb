from __future__ import annotations

import pytest

from dinov3.models import build
from dinov3.models.flops import forward_flops


def test_vit_s_flops_equal_those_counted_by_hand() -> None:
    d, tokens, patches, layers = 384, 1 + 4 + 14 * 14, 14 * 14, 12
    per_layer = (
        tokens * (3 * d * d + d * d + 2 * 4 * d * d) + 2 * tokens * tokens * d
    )  # qkv, proj, mlp; q k^T and its v
    macs = patches * 16 * 16 * 3 * d + layers * per_layer
    assert forward_flops(build.build_preset("dinov3_vits16", "meta"), 224) == 2 * macs == 9_396_209_664


def test_gated_ffn_and_rms_norm_count_matrix_products_only() -> None:
    model = build.vit_tiny(depth=1, norm_layer="rmsnorm", ffn_layer="swiglu", device="meta")
    d, tokens, hidden = 192, 1 + 4, 512
    macs = 4 * 16 * 16 * 3 * d + tokens * (4 * d * d + 3 * hidden * d) + 2 * tokens * tokens * d
    assert forward_flops(model, 32) == 2 * macs


def test_counting_keeps_the_mode_of_the_model() -> None:
    model = build.vit_tiny(depth=1, device="meta").train()
    forward_flops(model, 32)
    assert model.training


def test_the_table_has_a_line_for_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: build.PRESETS[name] for name in ("dinov3_vits16plus", "dinov3_convnext_tiny")}
    monkeypatch.setattr(build, "PRESETS", chosen)
    monkeypatch.setattr(build, "VIT_ARCHS", {"vit_small": build.VIT_ARCHS["vit_small"]})
    monkeypatch.setattr(build, "CONVNEXT_ARCHS", {})
    small, plus, tiny = build.model_rows()
    assert (small["name"], small["dim"], small["ffn"]) == ("vit_small", 384, "mlp")
    assert plus["parameters"] == 28_697_472
    assert (plus["dim"], plus["depth"], plus["heads"], plus["patch"], plus["ffn"]) == (384, 12, 6, 16, "swiglu")
    assert tiny["heads"] is None
    assert tiny["gflops"] == pytest.approx(8.9, abs=0.1)  # 4.46 G multiply-adds in the ConvNeXt paper, at 224 px
    header, *lines = build.model_lines()
    assert header.split() == ["name", "dim", "depth", "heads", "patch", "ffn", "parameters", "GFLOP@224"]
    assert lines[1].split() == ["dinov3_vits16plus", "384", "12", "6", "16", "swiglu", "28,697,472", "12.2"]
    assert lines[2].split()[3:6] == ["-", "-", "-"]
