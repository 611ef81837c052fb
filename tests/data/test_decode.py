from __future__ import annotations

import io
import resource
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dinov3.data import decode as decode_module
from dinov3.data.decode import BACKGROUND, MAX_PIXELS, Pixels, decode, fit_channels, read_image, size_of, stored_values
from dinov3.data.errors import BadImage, DataError

RAMP = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp() -> Image.Image:
    return Image.fromarray(RAMP)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], pixels: bytes = b"") -> bytes:
    """A PNG that claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    body = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_jpeg_pixels_equal_pillows() -> None:
    data = encoded(ramp(), "JPEG", quality=90)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert np.array_equal(decode(encoded(ramp(), kind)), RAMP)


def test_lossless_webp_keeps_every_pixel() -> None:
    assert np.array_equal(decode(encoded(ramp(), "WEBP", lossless=True)), RAMP)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_would(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(ramp(), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data), expected)
    assert size_of(data) == expected.shape[:2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_the_size_is_that_of_the_pixels_and_needs_only_the_header(kind: str) -> None:
    data = encoded(ramp(), kind)
    assert size_of(data) == decode(data).shape[:2]
    if kind in ("JPEG", "PNG"):
        assert size_of(data[: len(data) * 3 // 4]) == size_of(data)
    assert size_of(decode(data)) == size_of(data)


@pytest.mark.parametrize("data", [b"", b"nothing", b"\xff\xd8\xff nothing", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_has_no_size(data: bytes) -> None:
    with pytest.raises(BadImage):
        size_of(data)


def test_a_cmyk_jpeg_has_its_size_too() -> None:
    data = encoded(ramp().convert("CMYK"), "JPEG")
    assert size_of(data) == decode(data).shape[:2]


def test_orientation_6_is_the_transposed_and_mirrored_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(decode(encoded(ramp(), "PNG", exif=exif)), RAMP.transpose(1, 0, 2)[:, ::-1])


def test_a_damaged_exif_block_leaves_the_image_usable() -> None:
    data = encoded(ramp(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01\x02")
    assert decode(data).shape == (48, 64, 3)


def test_a_gray_jpeg_has_three_equal_channels() -> None:
    pixels = decode(encoded(ramp().convert("L"), "JPEG"))
    assert pixels.shape == (48, 64, 3)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_cmyk_jpeg_shows_its_colours_and_not_their_negative() -> None:
    data = encoded(Image.new("RGB", (32, 32), (200, 60, 20)).convert("CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data  # such files store inverted inks
    assert np.abs(decode(data).mean((0, 1)) - (200, 60, 20)).max() < 2


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = decode(encoded(Image.fromarray(values), kind))
        assert np.abs(pixels[..., 0].astype(float) - values / 257).max() <= 1


def test_float_tiff_is_scaled_by_its_own_range() -> None:
    values = np.linspace(-3, 5, 40 * 40).reshape(40, 40).astype(np.float32)
    pixels = decode(encoded(Image.fromarray(values), "TIFF"))
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.abs(pixels[..., 0] - (values + 3) / 8 * 255).max() <= 0.51


def test_float_tiff_with_nan_is_bad() -> None:
    values = np.full((20, 20), np.nan, dtype=np.float32)
    with pytest.raises(BadImage, match="not finite"):
        decode(encoded(Image.fromarray(values), "TIFF"))


def test_a_constant_float_tiff_is_black() -> None:
    assert decode(encoded(Image.fromarray(np.full((20, 20), 7.5, dtype=np.float32)), "TIFF")).max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_show_the_background(mode: str) -> None:
    image = ramp().convert(mode)
    image.putalpha(0)
    assert (decode(encoded(image, "PNG")) == BACKGROUND).all()


def test_half_transparent_pixels_are_mixed() -> None:
    image = Image.new("RGBA", (20, 20), (0, 100, 200, 128))
    assert np.abs(decode(encoded(image, "PNG"))[0, 0] - np.array([127, 177, 227.0])).max() <= 1.5


def test_a_palette_with_a_transparent_colour_shows_the_background_there() -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 10, 20))
    pixels = decode(encoded(image, "PNG", transparency=1))
    assert (pixels[:, :10] == BACKGROUND).all()
    assert (pixels[:, 10:] == (10, 20, 30)).all()


def test_one_bit_images_are_black_and_white() -> None:
    pixels = decode(encoded(ramp().convert("1"), "PNG"))
    assert set(np.unique(pixels)) == {0, 255}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == (255, 0, 0)).all()


def test_the_suffix_does_not_matter_and_the_content_does() -> None:
    assert np.array_equal(decode(encoded(ramp(), "PNG")), RAMP)  # bytes have no suffix
    for text in (
        b"<html>not an image</html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ):
        with pytest.raises(BadImage, match="UnidentifiedImageError"):
            decode(text)


def test_postscript_never_reaches_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    with pytest.raises(BadImage):
        decode(encoded(ramp(), "EPS"))


def test_an_empty_file_is_bad() -> None:
    with pytest.raises(BadImage, match="empty"):
        decode(b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_file_is_bad(kind: str) -> None:
    data = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), kind)
    with pytest.raises(BadImage):
        decode(data[: len(data) // 2])


def test_a_png_with_a_wrong_checksum_is_bad() -> None:
    data = bytearray(encoded(ramp(), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    with pytest.raises(BadImage):
        decode(bytes(data))


def test_a_jpeg_that_libjpeg_complains_about_is_left_to_pillow() -> None:
    data = encoded(ramp(), "JPEG")
    table = data.index(b"\xff\xc4")
    stuffed = data[:table] + b"\0\0\0\0" + data[table:]  # bytes between two segments
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(stuffed)
    assert np.array_equal(decode(stuffed), decode(data))


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (1, 5000, "times as long as wide"),
        (20_001, 1000, "a side above"),
        (9000, 9000, "million pixels"),
        (2**31 - 1, 2**31 - 1, "pixels"),
    ],
)
def test_sizes_are_judged_by_the_header(width: int, height: int, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(png(width, height))


def test_one_pixel_is_an_image() -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")).tolist() == [[[9, 8, 7]]]


def peak_memory(*, afresh: bool = False) -> int:
    """Most bytes this process ever held, or since it was asked for ``afresh`` where Linux allows that."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if afresh:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))


def bombs() -> dict[str, bytes]:
    many_frames = encoded(
        Image.new("P", (8, 8)),
        "GIF",
        save_all=True,
        append_images=[Image.new("P", (8, 8), i % 256) for i in range(2000)],
    )
    big_gif = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    big_gif[6:10] = struct.pack("<HH", 65535, 65535)
    big_jpeg = bytearray(encoded(ramp(), "JPEG"))
    at = big_jpeg.index(b"\xff\xc0") + 5
    big_jpeg[at : at + 4] = struct.pack(">HH", 60000, 60000)
    packer = zlib.compressobj(9)
    deflated = b"".join([*(packer.compress(bytes(10**6)) for _ in range(100)), packer.flush()])
    return {
        "100 million pixels in a PNG": png(10_000, 10_000, pixels=deflated),
        "a text chunk that unpacks to 100 MB": png(16, 16, (b"zTXt", b"k\0\0" + deflated)),
        "a colour profile that unpacks to 100 MB": png(16, 16, (b"iCCP", b"k\0\0" + deflated)),
        "a GIF screen of 4 billion pixels": bytes(big_gif),
        "2001 frames": many_frames,
        "a JPEG of 3.6 billion pixels": bytes(big_jpeg),
    }


@pytest.mark.parametrize(("name", "data"), bombs().items(), ids=lambda value: value if isinstance(value, str) else "")
def test_small_files_cannot_ask_for_much_time_or_memory(name: str, data: bytes) -> None:
    before, started = peak_memory(afresh=True), time.process_time()
    try:
        assert decode(data).size < 10**6
    except BadImage:
        assert name != "2001 frames"
    assert time.process_time() - started < 1
    assert peak_memory() - before < 50 * 2**20


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]), data=st.data())
def test_damaged_files_are_images_or_bad_and_nothing_else(kind: str, data: st.DataObject) -> None:
    original = encoded(ramp(), kind)
    damaged = bytearray(original)
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(original) - 1), st.integers(0, 255)), max_size=8)
    ):
        damaged[place] = value
    damaged = damaged[: data.draw(st.integers(1, len(damaged)))]
    try:
        pixels = decode(bytes(damaged))
    except BadImage as error:
        reason = str(error)
        pixels = RAMP
    else:
        reason = "none"
    assert reason
    assert "\n" not in reason
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_limits_hold_for_the_largest_allowed_image() -> None:
    decode_module.check_size(8000, MAX_PIXELS // 8000)
    with pytest.raises(BadImage):
        decode_module.check_size(8000, MAX_PIXELS // 8000 + 1)


def test_channels_are_fitted_to_the_model() -> None:
    gray = fit_channels(RAMP, 1)
    assert gray.shape == (48, 64, 1)
    assert np.abs(gray[..., 0] - RAMP @ (0.299, 0.587, 0.114)).max() <= 1
    assert np.array_equal(fit_channels(gray, 3)[..., 1], gray[..., 0])
    five = np.zeros((4, 4, 5), dtype=np.uint8)
    assert fit_channels(five, 5) is five
    with pytest.raises(DataError, match=r"5 channels, student\.in_chans is 3: set student\.in_chans=5"):
        fit_channels(five, 3)


class OneImage:
    def __init__(self, stored: bytes | Pixels | OSError) -> None:
        self.stored = stored

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> bytes | Pixels:
        if isinstance(self.stored, OSError):
            raise self.stored
        return self.stored

    def label(self, index: int) -> int | None:
        return None

    def name(self, index: int) -> str:
        return "it"

    def fingerprint(self) -> str:
        return ""


def test_a_source_may_give_bytes_or_pixels() -> None:
    assert np.array_equal(read_image(OneImage(encoded(ramp(), "PNG")), 0), RAMP)
    assert np.array_equal(read_image(OneImage(RAMP), 0), RAMP)


def test_a_file_that_is_gone_and_pixels_of_another_type_are_bad_images() -> None:
    with pytest.raises(BadImage, match=r"^FileNotFoundError: gone$"):
        read_image(OneImage(FileNotFoundError(2, "gone", "/set/a.jpg")), 0)
    with pytest.raises(BadImage, match="float32"):
        read_image(OneImage(RAMP.astype(np.float32)), 0)


def test_an_image_beyond_what_pillow_opens_names_the_key_and_the_most_it_allows() -> None:
    header = zlib.compress(b"")
    chunk = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", chunk), (b"IDAT", header), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    said = "400 million pixels: more than 64 million; data.max_pixels allows at most 178 million: scale it down"
    for read in (decode, size_of, stored_values):
        with pytest.raises(BadImage) as caught:
            read(data)
        assert str(caught.value) == said
