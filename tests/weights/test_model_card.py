"""The card of an export: where it comes from, its terms and its recipe, and nothing of others."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from dinov3.weights.export import card_of, export
from dinov3.weights.files import WeightsError
from dinov3.weights.names.translation import translate
from tests.weights.exported import QUICK, SLOW, config_of, need, out_of, state_of, stored
from tests.weights.random_models import tiny_vit


def test_the_model_card_tells_where_it_comes_from_and_no_secret(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "m.safetensors")
    card = (tmp_path / "m.safetensors.md").read_text()
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


def test_the_recipe_of_the_card_is_the_config_in_force(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = tmp_path / "photos"
    shutil.copytree(run, changed)
    (changed / "config_history").mkdir()
    cfg = yaml.safe_load((run / "config.yaml").read_text())
    cfg["optim"]["lr"] = 0.125
    (changed / "config_history" / "0001.yaml").write_text(yaml.safe_dump(cfg))
    export(changed, tmp_path / "m.safetensors")
    card = (tmp_path / "m.safetensors.md").read_text()
    assert "  lr: 0.125\n" in card
    assert re.search(r"\| changed \| optim\.lr was [\d.e-]+ at the start, is 0\.125 \|", card)
    (changed / "config_history" / "0002.yaml").write_text("optim: [")
    export(changed, tmp_path / "n.safetensors")
    card = (tmp_path / "n.safetensors.md").read_text()
    assert "0.125" not in card
    assert "| config | is that of the start: a later one cannot be read |" in card
    assert str(tmp_path) not in card
    assert "0002.yaml of config_history cannot be read" in caplog.text


def test_released_weights_keep_their_licence_in_the_card(tmp_path: Path) -> None:
    save_file(
        translate("timm", "DinoVisionTransformer", config_of(tiny_vit()), state_of(tiny_vit())), tmp_path / "weights"
    )
    export(tmp_path / "weights", tmp_path / "m.safetensors")
    assert "weights: the licence of those weights goes on to apply" in (tmp_path / "m.safetensors.md").read_text()


def test_a_backbone_of_ours_that_does_not_say_where_it_comes_from_gets_no_licence_of_others(tmp_path: Path) -> None:
    export(stored(tiny_vit(), tmp_path / "weights"), tmp_path / "m.safetensors")
    card = (tmp_path / "m.safetensors.md").read_text()
    assert "| starting weights | not recorded in weights |" in card
    assert "DINOv3 License" not in card


ORIGIN = ("photos, step 2, 16 images seen", "Synthetic:n=40:size=40", "none: training began with random weights")


@pytest.mark.parametrize("layout", [*QUICK, SLOW])
def test_an_export_of_an_export_keeps_its_origin_its_terms_and_its_recipe(
    layout: str, run: Path, tmp_path: Path
) -> None:
    need(layout)
    first = tmp_path / "first.safetensors"
    export(run, first)
    second = Path(export(first, out_of(layout, tmp_path / "second"), layout=layout)[0])
    third = tmp_path / "third.safetensors"
    if layout != "onnx":
        export(second, third)
    cards = [second / "README.md" if second.is_dir() else card_of(second), card_of(third)]
    for card in cards[: 1 if layout == "onnx" else 2]:
        text = card.read_text()
        assert all(told in text for told in ORIGIN), text
        assert "  n_storage_tokens: 2\n" in text
        assert "DINOv3 License" not in text
    assert "| exported from | first.safetensors |" in cards[0].read_text()


def test_the_backbone_file_of_a_checkpoint_knows_its_run(run: Path, tmp_path: Path) -> None:
    export(next(run.glob("ckpt/step-*/backbone.safetensors")), tmp_path / "m.safetensors")
    assert all(told in card_of(tmp_path / "m.safetensors").read_text() for told in ORIGIN)


def test_a_hostile_origin_stays_a_cell_of_the_card(tmp_path: Path) -> None:
    folder = stored(tiny_vit(), tmp_path / "in")
    content = json.loads((folder / "config.json").read_text())
    rows = [["made from", "a | b\n\n<script>alert(1)</script>"]]
    content["provenance"] = {"rows": rows, "recipe": "x: 1\n```\n<script>\n"}
    (folder / "config.json").write_text(json.dumps(content))
    export(folder, tmp_path / "m.safetensors")
    card = card_of(tmp_path / "m.safetensors").read_text()
    assert "| made from | a \\| b &lt;script>alert(1)&lt;/script> |" in card
    assert card.count("```") == 4


def test_every_file_has_a_card_of_its_own(tmp_path: Path) -> None:
    source = stored(tiny_vit(), tmp_path / "in")
    for name in ("photos.safetensors", "photos.pth"):
        export(source, tmp_path / name)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert [n for n in names if n.endswith(".md")] == ["photos.pth.md", "photos.safetensors.md"]
    with pytest.raises(WeightsError, match=r"photos\.json: describes photos\.pth: give another name"):
        export(source, tmp_path / "photos.pt")
