from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinov3.data.decode import Reading
from dinov3.data.errors import BadImage
from dinov3.features.extract import preprocess_of
from dinov3.features.preprocess import Preprocess
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.own import load_backbone, write_backbone
from dinov3.weights.reading.errors import WeightsError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def gray() -> torch.Tensor:
    return torch.full((3, 16, 24), 127, dtype=torch.uint8)


def test_both_routes_of_a_gray_image_agree_and_normalising_twice_is_refused() -> None:
    prepare = Preprocess(MEAN, STD, 8)
    once = prepare(gray())
    torch.testing.assert_close(prepare.accept_normalised(once), once, rtol=0, atol=0)
    by_hand = torch.tensor([(127 / 255 - m) / s for m, s in zip(MEAN, STD, strict=True)])
    torch.testing.assert_close(once[:, 0, 0], by_hand)
    with pytest.raises(ValueError, match="normalised already"):
        prepare(prepare((torch.rand(3, 16, 16) * 255).to(torch.uint8)))
    with pytest.raises(ValueError, match="normalised=True is for float"):
        prepare.accept_normalised(gray())
    with pytest.raises(ValueError, match="divide by 255"):
        prepare(torch.rand(3, 16, 16) * 255)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    prepare = Preprocess(MEAN, STD, 8)
    for picture, words in (
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (np.zeros((3, 8, 16), np.uint8), r"16 channels.*numpy arrays \[H, W, C\]"),
        (torch.full((3, 8, 8), torch.nan), "not finite"),
        (5, "int: an image is"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            prepare(picture)  # type: ignore[arg-type]
    for size in ("large", (32,), (32, 32, 32), 32.0):
        with pytest.raises((ValueError, TypeError), match="size"):
            Preprocess(MEAN, STD, 8, size)  # type: ignore[arg-type]


def test_bytes_in_any_wrapping_are_the_file(tmp_path: Path) -> None:
    prepare, path = Preprocess(MEAN, STD, 8), tmp_path / "a.png"
    Image.fromarray(np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)).save(path)
    content = path.read_bytes()
    for picture in (content, bytearray(content), io.BytesIO(content)):
        assert torch.equal(prepare(picture), prepare(path))


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([8, 14, 16]))
def test_native_sizes_are_the_nearest_whole_patches(height: int, width: int, patch: int) -> None:
    for side, got in zip((height, width), Preprocess(MEAN, STD, patch).target(height, width), strict=True):
        assert got % patch == 0
        assert got >= patch
        assert abs(got - side) <= patch / 2 or got == patch


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_max_side_keeps_the_shape(height: int, width: int) -> None:
    rows, cols = Preprocess(MEAN, STD, 16, max_side=256).target(height, width)
    assert max(rows, cols) <= 256
    scale = min(1, 256 / max(height, width))
    assert abs(rows - height * scale) <= 8 or rows == 16
    assert abs(cols - width * scale) <= 8 or cols == 16


def test_the_whole_image_is_seen() -> None:
    ramp = torch.arange(240, dtype=torch.uint8).repeat(3, 100, 1)
    seen = Preprocess((0.0,) * 3, (1.0,) * 3, 16, 160)(ramp)[0, 80] * 255
    assert seen[0] < 2
    assert seen[-1] > 236
    assert (seen.diff() >= 0).all()


def test_bilinear_is_torchs_antialiased_resize_of_floats() -> None:
    image = torch.rand(3, 50, 70)
    got = Preprocess((0.0,) * 3, (1.0,) * 3, 16, (32, 48), interpolation="bilinear")(image)
    torch.testing.assert_close(got, F.interpolate(image[None], (32, 48), mode="bilinear", antialias=True)[0])


def test_gray_images_are_repeated_and_other_channel_counts_named() -> None:
    prepare = Preprocess(MEAN, STD, 8)
    assert prepare(np.zeros((16, 16), np.uint8)).shape == (3, 16, 16)
    assert prepare(Image.new("L", (16, 16))).shape == (3, 16, 16)
    assert prepare(torch.zeros(1, 16, 16)).shape == (3, 16, 16)
    with pytest.raises(ValueError, match="5 channels"):
        prepare(np.zeros((16, 16, 5), np.uint8))
    five = Preprocess((0.5,) * 5, (0.2,) * 5, 8)
    assert five(np.zeros((16, 16, 5), np.uint8)).shape == (5, 16, 16)


def test_a_size_that_the_patch_does_not_divide_names_the_two_next_to_it() -> None:
    with pytest.raises(ValueError, match="use 224 or 240"):
        Preprocess(MEAN, STD, 16, 230)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("README.md", "empty.jpg"):
        with pytest.raises(BadImage, match=rf"^{tmp_path / name}: "):
            Preprocess(MEAN, STD, 8)(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        Preprocess(MEAN, STD, 8)(str(tmp_path / "missing.jpg"))


def small() -> DinoVisionTransformer:
    backbone = DinoVisionTransformer(img_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=2)
    backbone.init_weights(torch.Generator().manual_seed(0))
    return backbone.eval()


def test_a_backbone_says_which_values_of_deep_files_were_black_and_white(tmp_path: Path) -> None:
    backbone = small()
    facts = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 32, "value_range": [1000, 5095]}
    write_backbone(tmp_path, backbone, facts)
    deep = np.full((32, 32), 5095, np.uint16)
    deep[:16] = 1000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    preprocess = preprocess_of(load_backbone(tmp_path))
    assert preprocess.reading == Reading(value_range=(1000, 5095))
    seen = preprocess(tmp_path / "deep.png")
    assert (seen[:, :16] == -1).all()
    assert (seen[:, 16:] == 1).all()
    assert preprocess.describe()["value_range"] == [1000, 5095]


@pytest.mark.parametrize("bad", [[1], "all", [5, 5], [None, 3]])
def test_a_value_range_that_is_none_is_refused(tmp_path: Path, bad: object) -> None:
    facts = {"mean": [0.5] * 3, "std": [0.5] * 3, "value_range": bad}
    write_backbone(tmp_path, small(), facts)
    with pytest.raises(WeightsError, match="value_range"):
        load_backbone(tmp_path)
