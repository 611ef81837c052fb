"""Images of more than 8 bits a value, of kinds that are not read, and those made to hold up a reader."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dinov3.config.load import load_config
from dinov3.data.decode import AVIF, Reading, check_scans, decode, kind_of, stored_values
from dinov3.data.errors import BadImage
from dinov3.data.signatures import described
from tests.data.odd_images import PICTURE, bomb, encoded
from tests.data.tiffs import tiff

ROWS, COLUMNS = np.mgrid[0:48, 0:64]
GRAY = (COLUMNS * 2 + ROWS + 30).astype(np.uint8)  # 30 to 203


def mean_of(data: bytes, reading: Reading | None = None) -> float:
    return float(decode(data, reading or Reading()).mean())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_no_negative(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    values = GRAY.astype(dtype) * dtype(top // 255)
    assert np.array_equal(decode(tiff(top - values, 0))[:, :, 0], GRAY)
    assert np.array_equal(decode(tiff(values, 1))[:, :, 0], GRAY)


@given(st.sampled_from([np.uint16, np.float32]), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_picture_with_white_as_zero_is_the_inverse_of_the_same_numbers(dtype: Any, seed: int, fixed: bool) -> None:
    values = np.random.default_rng(seed).integers(0, 60_000, (9, 11)).astype(dtype)
    reading = Reading(value_range=(100.0, 50_000.0) if fixed else None)
    black_is_zero, white_is_zero = (decode(tiff(values, kind), reading).astype(int) for kind in (1, 0))
    assert np.abs(black_is_zero + white_is_zero - 255).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen_are_dark_until_the_range_is_given(kind: str) -> None:
    data = encoded(Image.fromarray(GRAY.astype(np.uint16) * 16), kind)
    assert mean_of(data) < 10
    assert abs(mean_of(data, Reading(value_range=(0, 4080))) - GRAY.mean()) < 0.5
    assert stored_values(data)[:2] == (int(GRAY.min()) * 16, int(GRAY.max()) * 16)


def test_values_that_stand_for_no_data_do_not_squeeze_the_others() -> None:
    height = GRAY.astype(np.float32)
    height[:3] = -9999
    assert mean_of(tiff(height)) > 235  # what is wrong with it
    assert abs(mean_of(tiff(height), Reading(value_range=(0, 255))) - np.maximum(height, 0).mean()) < 0.5
    known = decode(tiff(height, t42113="-9999"))  # GDAL's tag says it
    assert (known[:3] == 0).all()
    assert (known[3].min(), known.max()) == (0, 255)


def test_the_range_is_a_key_and_so_is_the_largest_image() -> None:
    cfg = load_config(None, ["data.value_range=[0, 4095]", "data.max_pixels=108000000"])
    assert Reading.from_config(cfg) == Reading(108_000_000, (0.0, 4095.0))
    assert Reading.from_config(load_config(None, [])) == Reading()


def test_a_photograph_of_more_pixels_is_read_when_it_is_allowed() -> None:
    with pytest.raises(BadImage, match=r"12000x9000: more than 64 million pixels; data\.max_pixels allows them"):
        decode(bomb(12_000, 9_000))
    large = encoded(Image.new("L", (300, 200), 128), "JPEG", quality=50)
    with pytest.raises(BadImage, match=r"300x200: more than 0\.05 million pixels"):
        decode(large, Reading(max_pixels=50_000))
    assert decode(large, Reading(max_pixels=60_000)).shape == (200, 300, 3)


def colours(dtype: Any, channels: int) -> NDArray[Any]:
    return np.repeat(GRAY[:, :, None], channels, axis=2).astype(dtype)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(colours(np.uint8, 4)), "TIFF of 4 x uint8, minisblack"),
        (tiff(colours(np.float32, 3), 2), "TIFF of 3 x float32, RGB"),
        (tiff(GRAY.astype(np.float16)), "TIFF of 1 x float16, minisblack"),
        (tiff(GRAY.astype(np.float64)), "TIFF of 1 x float64, minisblack"),
        (tiff(colours(np.uint16, 13)), "TIFF of 13 x uint16, minisblack"),
        (
            b"\xff\xd8\xff\xc1\x00\x0b\x0c\x00\x10\x00\x10\x01\x01\x11\x00" + bytes(99),
            "a JPEG of 12 bits a value, only 8",
        ),
        (b"\xff\xd8\xff\xc3\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00" + bytes(99), "a lossless JPEG"),
        (b"<!DOCTYPE html><html>404</html>", "it is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "it is a Git LFS pointer, not the file: git lfs pull",
        ),
        (b"\0\0\0\x18ftypheic" + bytes(99), "it is HEIC, which is not read here"),
        (bytes(128) + b"DICM" + bytes(99), "it is DICOM"),
        (b"%PDF-1.7" + bytes(99), "it is a PDF"),
    ],
)
def test_reasons_say_what_the_file_is(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert reason in str(caught.value)


@given(
    st.binary(max_size=400), st.sampled_from([b"", b"II*\0", b"MM\0*", b"II+\0", b"\xff\xd8\xff", b"\0\0\0\x18ftyp"])
)
@settings(max_examples=400)
def test_what_a_file_is_can_be_asked_of_any_bytes(data: bytes, start: bytes) -> None:
    assert "\n" not in described(start + data)
    with pytest.raises(BadImage):
        decode(b"II*\0" + data)


@pytest.mark.skipif(not AVIF, reason="this Pillow reads no AVIF")
def test_avif_is_read_under_any_name() -> None:
    data = encoded(PICTURE, "AVIF", quality=95)
    assert kind_of(data) == "AVIF RGB"
    assert np.abs(decode(data).astype(int) - np.asarray(PICTURE)).mean() < 6


def progressive(side: int, extra: int) -> bytes:
    """A JPEG with its last scan repeated."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True, quality=50)
    at = data.rfind(b"\xff\xda")
    return data[:at] + data[at:-2] * (extra + 1) + data[-2:]


@pytest.mark.parametrize(("side", "extra"), [(4000, 1500), (4000, 100), (16, 1500)])
def test_scans_that_are_made_to_hold_up_a_reader_are_refused_before_decoding(side: int, extra: int) -> None:
    data = progressive(side, extra)
    started = time.process_time()
    with pytest.raises(BadImage, match=r"scans of .* pixels: more work than an image is"):
        decode(data)
    assert time.process_time() - started < 1


def test_progressive_photographs_are_read() -> None:
    for image in (PICTURE, PICTURE.convert("L"), PICTURE.resize((3000, 2000))):
        data = encoded(image, "JPEG", progressive=True, quality=90)
        assert decode(data).shape[:2] == (image.height, image.width)
    check_scans(data, 64 * 10**6)  # the largest image with as many scans as encoders write


def test_an_alpha_channel_is_measured() -> None:
    naip = tiff(np.dstack([colours(np.uint8, 3), np.full((48, 64), 51, np.uint8)]), 2, t338=2)
    assert kind_of(naip) == "TIFF RGBA"
    assert abs(stored_values(naip)[2] - 0.2) < 0.01


def test_colours_of_sixteen_bits_follow_the_range_too() -> None:
    dark = tiff((colours(np.uint16, 3) * 16).astype(np.uint16), 2)
    assert kind_of(dark) == "TIFF RGB 16 bit"
    assert mean_of(dark) < 10
    assert abs(mean_of(dark, Reading(value_range=(0, 4080))) - GRAY.mean()) < 10  # of the upper 8 bits
