from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from dinov3.pictures import token_sheet as sheets
from dinov3.pictures.pca import token_colours
from dinov3.pictures.token_sheet import covered, fit, shortened, token_sheet, unnormalised


def test_unnormalising_undoes_mean_and_standard_deviation() -> None:
    image = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
    normalised = (image - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)
    torch.testing.assert_close(unnormalised(normalised, mean, std), image)


def test_only_masked_patches_are_tinted() -> None:
    images, masks = torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, 2, 2, dtype=torch.bool)
    masks[1, 0, 1] = True
    changed = (covered(images, masks) != images).any(1)
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[1, :4, 4:] = True
    assert torch.equal(changed, expected)


def test_equal_tokens_have_equal_colours_wherever_they_are() -> None:
    a, b = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    colours = token_colours(torch.stack([torch.stack([a, b, a, b]), torch.stack([b, b, a, a])]), (2, 2))
    assert colours.shape == (2, 3, 2, 2)
    flat = colours.flatten(2)  # [N, 3, P]
    assert torch.allclose(flat[0, :, 0], flat[1, :, 2], atol=1e-4)
    assert float((flat[0, :, 0] - flat[0, :, 1]).abs().max()) > 0.9


def test_the_sheet_has_a_tile_for_every_row_and_column(tmp_path: Path) -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(2, 3, 5, 5)
    blue = red.flip(1)
    token_sheet({"red": red, "blue": blue}, ["first", "second"], "title", tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))  # [H, W, 3]
    shares = [float((pixels == colour).all(-1).mean()) for colour in ((255, 0, 0), (0, 0, 255))]
    assert all(0.35 < share < 0.5 for share in shares), shares


def test_a_long_text_keeps_both_its_ends() -> None:
    assert shortened("IMG_2024_12345.jpg", 18) == "IMG_2024_12345.jpg"
    assert shortened("IMG_2024_12345.jpg", 11) == "IMG_2…5.jpg"
    assert len(shortened("x" * 100, 12)) == 12


@pytest.mark.parametrize("shape", [(8, 24), (8, 12), (8, 8), (12, 8)])
def test_labels_and_title_stay_beside_and_above_the_tiles(
    shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []

    def noted(**options: Any) -> Figure:
        drawn.append(Figure(**options))
        return drawn[-1]

    monkeypatch.setattr(sheets, "Figure", noted)
    name = "photographs_of_some_camera_from_somewhere_00017.jpeg"
    token_sheet({"image": torch.zeros(2, 3, *shape)}, [name, name], 3 * name, tmp_path / "sheet.png")
    (figure,) = drawn
    for axis in figure.axes:
        assert axis.yaxis.label.get_window_extent().height <= axis.get_window_extent().height
        assert axis.yaxis.label.get_text().endswith("jpeg")
    assert "…" in figure.get_suptitle()
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1


def test_a_path_of_4000_characters_is_measured_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure(figsize=(4, 1), dpi=100)
    FigureCanvasAgg(figure)
    text = figure.text(0, 0, "/a" * 2000 + "/end.png")
    measured: list[int] = []
    extent = Text.get_window_extent
    monkeypatch.setattr(
        Text, "get_window_extent", lambda self, *args: measured.append(len(self.get_text())) or extent(self, *args)
    )
    fit(text, 300)
    assert len(measured) <= 14
    written = text.get_text()
    assert written.startswith("/a")
    assert written.endswith("/end.png")
    assert 200 < extent(text).width <= 300


def test_names_that_are_no_text_or_look_like_mathematics_are_drawn(tmp_path: Path) -> None:
    names = ["Gr\udcc3\udcb6\u00dfe.png", "$\\frac{$ 5 $.png"]
    token_sheet({"image": torch.zeros(2, 3, 8, 8)}, names, names[1], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_a_picture_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "sheet.png").symlink_to(tmp_path / "target")
    token_sheet({"a": torch.zeros(1, 3, 5, 5)}, ["first"], "title", tmp_path / "sheet.png")
    assert (tmp_path / "target").read_text() == "mine"
