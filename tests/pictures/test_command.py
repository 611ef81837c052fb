from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dinov3.cli import main
from dinov3.data.sources import parse_dataset
from dinov3.models.vit import DinoVisionTransformer
from dinov3.pictures import command as viz
from dinov3.pictures.token_sheet import TOP
from dinov3.weights.own import write_backbone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("viz")
    model = DinoVisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    model.init_weights(torch.Generator().manual_seed(0))
    write_backbone(root, model.eval(), {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 16})
    Image.fromarray(parse_dataset("Synthetic").read(3)).save(root / "one.png")
    return root


@pytest.mark.parametrize("kind", ["pca", "sim", "attn"])
@pytest.mark.parametrize("data", ["Synthetic:n=10:size=40", "one.png"])
def test_pictures_are_written_for_a_set_and_for_one_image(place: Path, kind: str, data: str) -> None:
    where = str(place / data) if data == "one.png" else data
    out = place / f"{kind}.png"
    arguments = ["--weights", str(place), "--data", where, "--size", "64", "--images", "3", "--out", str(out)]
    assert main(["viz", kind, *arguments]) == 0
    picture = Image.open(out)
    assert len(picture.convert("RGB").resize((50, 50)).getcolors(2500)) > 50  # not empty


def test_an_image_keeps_its_shape(place: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    common = ["--weights", str(place), "--data", str(tmp_path / "wide.png"), "--out", str(tmp_path / "x.png")]
    heights = []
    for size in ("32x64", "64"):
        assert main(["viz", "sim", *common, "--size", size]) == 0
        heights.append(Image.open(tmp_path / "x.png").height - 110 * TOP)
    assert heights[0] / heights[1] == pytest.approx(0.5, abs=0.02)


def test_the_folder_of_the_picture_is_made_and_another_ending_is_refused(place: Path, tmp_path: Path) -> None:
    arguments = ["viz", "pca", "--weights", str(place), "--data", str(place / "one.png"), "--out"]
    assert main([*arguments, str(tmp_path / "new" / "x.png")]) == 0
    assert (tmp_path / "new" / "x.png").is_file()
    assert main([*arguments, str(tmp_path / "x.txt")]) == 78


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pca"], "--data"),
        (["attn", "--data", "Synthetic:n=3", "--layer", "7"], "layer 7: the backbone has blocks 0 to 0"),
        (["curves"], "metrics.jsonl"),
        (["pca", "--data", "Synthetic:n=3", "--size", "20"], "use 16 or 24"),
        (["pca", "--data", "Synthetic:n=3", "--images", "0"], "--images 0: at least 1"),
        (["pca", "--data", "Synthetic:n=3", "--images", "1", "--size", "8"], "1 patches of 32 features"),
    ],
)
def test_a_wrong_argument_is_one_line(
    place: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["viz", *arguments, "--weights", str(place), "--out", str(tmp_path / "x.png")]) == 78
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_a_picture_inside_the_images_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["viz", "pca", "--weights", str(place), "--data", str(place), "--out", str(place / "x.png")]) == 78
    assert "lies inside the images" in capsys.readouterr().err
    assert not (place / "x.png").exists()


def test_an_image_that_cannot_be_read_is_one_line_with_its_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    arguments = ["--weights", str(place), "--data", str(tmp_path / "page.jpg"), "--out", str(tmp_path / "x.png")]
    assert main(["viz", "pca", *arguments]) == 78
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/page.jpg: UnidentifiedImageError")
    assert error.count("\n") == 1


def test_the_images_are_spread_over_the_data_and_those_that_cannot_be_read_are_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(8):
        Image.new("RGB", (32, 32), (30 * n, 0, 0)).save(folder / f"{n}.png")
    (folder / "7.png").write_text("<html>")
    rows: list[list[str]] = []
    monkeypatch.setattr(viz, "token_sheet", lambda columns, names, title, path: rows.append(names))
    arguments = ["--weights", str(place), "--data", str(folder), "--size", "32", "--images", "3"]
    assert main(["viz", "pca", *arguments, "--out", str(tmp_path / "x.png")]) == 0
    assert rows == [["0", "3"]]
    assert f"left out: {folder}/7.png: UnidentifiedImageError" in capsys.readouterr().out


@pytest.mark.parametrize("at", [(0.0, 0.0), (0.5, 0.25), (1.0, 1.0)])
def test_the_point_is_a_cross_in_a_colour_that_no_heat_map_has(at: tuple[float, float]) -> None:
    for tiles in (torch.zeros(2, 3, 64, 96), viz.heat(torch.rand(2, 64, 96))):
        shown = viz.marked(tiles, at)
        green = (shown == torch.tensor(viz.CROSS).reshape(1, 3, 1, 1)).all(1)
        assert not (tiles == torch.tensor(viz.CROSS).reshape(1, 3, 1, 1)).all(1).any()
        assert green[:, min(int(64 * at[0]), 63), min(int(96 * at[1]), 95)].all()
        assert 5 <= int(green[0].sum()) <= 20
        assert torch.equal(green[0], green[1])
