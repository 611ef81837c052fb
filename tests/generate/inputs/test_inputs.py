from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from dinov3.cli import main
from dinov3.data.torchvision_compat import prepare_torchvision
from dinov3.generate.errors import GenerateError
from dinov3.generate.inputs.files import caption_of, names_of, read_captions
from dinov3.generate.inputs.hashed import HashedWords
from dinov3.generate.inputs.open import Inputs, LatentInput, TextInput, latent_coder, text_coder
from dinov3.generate.inputs.pixels import PooledPixels
from dinov3.generate.inputs.t5 import T5Texts
from dinov3.generate.inputs.vae import VaeLatents
from dinov3.generate.shards import read_shard
from dinov3.weights.own import write_backbone
from tests.generate.sets import backbone, files, write_images


def test_equal_words_are_equal_rows_and_what_follows_is_padding() -> None:
    coder = HashedWords(5, 8)
    text = coder.encode("A ring, a STAR")
    assert text.tokens.shape == (5, 8)
    assert text.mask.tolist() == [1, 1, 1, 1, 0]
    assert np.array_equal(text.tokens[0], text.tokens[2])
    assert not np.array_equal(text.tokens[1], text.tokens[3])
    assert not text.tokens[4].any()
    assert np.array_equal(text.tokens[3], coder.encode("star").tokens[0])
    assert coder.encode("one two three four five six").mask.all()


def test_a_pixel_latent_is_the_mean_of_8_by_8_and_its_picture_is_near() -> None:
    image = torch.zeros(3, 32, 16)
    image[0, :8, :8] = 1
    latent = PooledPixels().encode(image)
    assert latent.shape == (3, 4, 2)
    assert latent[:, 0, 0].tolist() == [1, -1, -1]
    smooth = torch.linspace(0, 1, 64).expand(3, 64, 64)
    back = PooledPixels().decode(PooledPixels().encode(smooth)[None])[0]
    assert (back - smooth).abs().max() < 0.07


class _Tokenizer:
    """Letters as numbers."""

    def __call__(self, text: str, *, max_length: int, **_: object):  # type: ignore[no-untyped-def]
        from transformers.tokenization_utils_base import BatchEncoding

        ids = [ord(letter) % 30 + 2 for letter in text][:max_length]
        rest = max_length - len(ids)
        mask = torch.tensor([[1] * len(ids) + [0] * rest])
        return BatchEncoding({"input_ids": torch.tensor([ids + [0] * rest]), "attention_mask": mask})


def test_t5_is_the_encoders_last_state_without_its_padding() -> None:
    prepare_torchvision()
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    encoder = T5EncoderModel(T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    coder = T5Texts(encoder, _Tokenizer(), length=7)
    found = coder.encode("star")
    assert (coder.length, coder.width) == (7, 16)
    assert found.mask.tolist() == [1, 1, 1, 1, 0, 0, 0]
    ids = torch.tensor([[ord(letter) % 30 + 2 for letter in "star"]])
    with torch.no_grad():
        wanted = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    np.testing.assert_allclose(found.tokens[:4], wanted.numpy(), atol=2e-3)
    assert not found.tokens[4:].any()


class _Config:
    block_out_channels = (8, 8, 8, 8)
    latent_channels, scaling_factor, shift_factor = 4, 0.5, 0.25


class _Vae(torch.nn.Module):
    """The outside of diffusers' AutoencoderKL around one convolution each way."""

    device = torch.device("cpu")

    def __init__(self, config: type = _Config) -> None:
        super().__init__()
        self.config = config
        self.down = torch.nn.Conv2d(3, 4, 8, stride=8)
        self.up = torch.nn.ConvTranspose2d(4, 3, 8, stride=8)

    def encode(self, image: torch.Tensor):  # type: ignore[no-untyped-def]
        found = self.down(image)
        posterior = type("Posterior", (), {"mode": lambda self: found})()
        return type("Encoded", (), {"latent_dist": posterior})()

    def decode(self, latents: torch.Tensor):  # type: ignore[no-untyped-def]
        return type("Decoded", (), {"sample": self.up(latents)})()


def test_a_vae_is_asked_in_minus_one_to_one_and_shifted_and_scaled() -> None:
    vae = _Vae()
    coder, image = VaeLatents(vae), torch.rand(3, 16, 32)
    latents = coder.encode(image)
    assert latents.shape == (4, 2, 4)
    with torch.no_grad():
        torch.testing.assert_close(latents / 0.5 + 0.25, vae.down(image[None] * 2 - 1)[0])
        wanted = ((vae.up(latents[None] / 0.5 + 0.25) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(coder.decode(latents[None]), wanted)


def test_diffusers_own_vae_goes_there_and_back(tmp_path: Path) -> None:
    prepare_torchvision()
    diffusers = pytest.importorskip("diffusers", reason="an optional extra")
    torch.manual_seed(0)
    made = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        norm_num_groups=4,
        latent_channels=16,
        shift_factor=0.1,
        scaling_factor=0.4,
    )
    made.save_pretrained(tmp_path / "vae")
    coder, image = latent_coder(f"vae:{tmp_path / 'vae'}"), torch.rand(3, 32, 64)
    assert coder.name == VaeLatents(made).name
    latents = coder.encode(image)
    assert latents.shape == (coder.channels, 4, 8) == (16, 4, 8)
    with torch.no_grad():
        wanted = made.eval().encode(image[None] * 2 - 1).latent_dist.mean[0]
        seen = made.decode(wanted[None]).sample
    torch.testing.assert_close(latents, (wanted - 0.1) * 0.4)
    torch.testing.assert_close(coder.decode(latents[None]), ((seen + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_a_vae_that_shrinks_otherwise_is_refused() -> None:
    other = type("Other", (_Config,), {"block_out_channels": (8, 8, 8)})
    with pytest.raises(GenerateError, match="shrinks by 4, the transformer's tokens need 8"):
        VaeLatents(_Vae(other))


def test_without_diffusers_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(GenerateError, match=r"pip install 'dinov3\[vae\]'"):
        latent_coder("vae:/nowhere")


@pytest.mark.parametrize("word", ["hash:x", "hash:0:4", "words", "t5", "hash:1:2:3"])
def test_another_text_is_refused(word: str) -> None:
    with pytest.raises(GenerateError, match="hash"):
        text_coder(word)


def test_captions_are_found_by_name_file_stem_or_place(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    rows = [
        {"image": "a/b.v1.png", "caption": "1"},
        {"image": "c.png", "caption": "2"},
        {"image": "000000007", "caption": "3"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    captions = read_captions(path)
    assert caption_of(captions, names_of(0, "a/b.v1.png")) == "1"
    assert caption_of(captions, names_of(0, "x/c.png")) == "2"
    assert caption_of(captions, names_of(7, "x/d.png")) == "3"
    assert caption_of(captions, names_of(8, "x/d.png")) is None
    path.write_text('{"image": 3}\n')
    with pytest.raises(GenerateError, match="row 1 is not"):
        read_captions(path)
    row = '{"image": "a.png", "caption": "%s"}\n'
    path.write_text(row % 1 + row % 1)
    assert read_captions(path) == {"a.png": "1"}
    for text, told in (
        (row % 1 + row % 2, "row 2 is another caption for a.png"),
        (row % 1 + "hello\n", "1 of 2 lines"),
    ):
        path.write_text(text)
        with pytest.raises(GenerateError, match=told):
            read_captions(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights, ten usable images, captions of all but one, and arrays of another program."""
    (tmp_path / "weights").mkdir()
    write_backbone(tmp_path / "weights", backbone(), {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 64})
    images = write_images(tmp_path / "images")
    names = sorted(path.name for path in images.iterdir())
    rows = [{"image": name, "caption": f"picture {name}"} for name in names[1:]]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def extract(folder: Path, *more: str, out: str = "out") -> int:
    words = ["dit", "extract", "--weights", str(folder / "weights"), "--data", str(folder / "images"), "--side", "64"]
    return main([*words, "--out", str(folder / out), *more])


def texts(folder: Path) -> list[str]:
    return ["--text", "hash:4:6", "--captions", str(folder / "captions.jsonl"), "--latents", "pixels"]


def test_texts_and_latents_lie_in_the_shards_an_image_without_a_caption_is_counted_and_bytes_are_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(folder, *texts(folder)) == 0
    told = capsys.readouterr().out
    assert "9 images in" in told
    assert "left out, incomplete: 1" in told
    assert main(["dit", "verify", str(folder / "out")]) == 0
    assert extract(folder, *texts(folder), out="again") == 0
    assert files(folder / "out") == files(folder / "again")
    for path in (folder / "out").rglob("*.tar"):
        for sample in read_shard(path):
            height, width = (side * 2 for side in sample.facts["grid"])
            assert sample.latent is not None
            assert sample.latent.shape == (3, height, width)
            name = Path(sample.facts["src"]).name
            assert sample.facts["caption"] == f"picture {name}"
            with Image.open(folder / "images" / name) as image:
                mean = np.asarray(image.convert("RGB")).mean((0, 1)) / 127.5 - 1
            np.testing.assert_allclose(sample.latent.mean((1, 2)), mean, atol=0.05)


def test_webdatasets_own_reader_gives_the_same_samples(folder: Path) -> None:
    assert extract(folder, *texts(folder)) == 0
    for path in (folder / "out").rglob("*.tar"):
        theirs = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode())
        ours = list(read_shard(path))
        assert len(ours) == len(theirs) > 0
        for sample, other in zip(ours, theirs, strict=True):
            assert other["__key__"] == sample.key
            assert other["json"] == sample.facts
            assert {name for name in other if name.endswith("npy")} == sample.arrays().keys()
            assert all(np.array_equal(other[name], array) for name, array in sample.arrays().items())


def test_arrays_of_another_program_are_taken_and_one_of_another_size_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(folder, *texts(folder)) == 0
    arrays = folder / "arrays"
    arrays.mkdir()
    for path in (folder / "out").rglob("*.tar"):
        for sample in read_shard(path):
            for name, array in sample.arrays().items():
                if not name.startswith("dinov3"):
                    np.save(arrays / f"{Path(sample.facts['src']).stem}.{name}", array)
    given = ["--text", f"npy:{arrays}", "--latents", f"npy:{arrays}"]
    assert extract(folder, *given, out="theirs") == 0
    ours, theirs = (
        {s.key: s.arrays() for p in (folder / name).rglob("*.tar") for s in read_shard(p)} for name in ("out", "theirs")
    )
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key][name], array) for key, each in theirs.items() for name, array in each.items())
    odd = max(arrays.glob("*.vae.npy"))
    right = np.load(odd)
    for array, told_of_it in (
        (np.zeros((3, 7, 5), np.float16), "a latent (3, 7, 5); its image has the size of"),
        (np.full_like(right, np.nan), "holds values that are not finite in fp16"),
        (np.full(right.shape, 1e6, np.float32), "holds values that are not finite in fp16"),
        (right.astype(str), "not a .npy file of numbers"),
        (right.astype(np.complex64), "not a .npy file of numbers"),
    ):
        np.save(odd, array)
        capsys.readouterr()
        assert extract(folder, *given, out="odd") == 78
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"{odd}: {told_of_it}" in error
        shutil.rmtree(folder / "odd")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--text", "hash"], "needs --captions"),
        (["--text", "hash", "--captions", "/nowhere"], "no such file"),
        (["--captions", "/nowhere"], "--captions without --text"),
        (["--latents", "words"], "choose pixels"),
        (["--latents", "npy:/nowhere"], "no such folder"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(
    folder: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(folder, *words) == 78
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists() or files(folder / "out") == {}


def test_a_set_is_not_continued_with_other_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extract(folder, *texts(folder)) == 0
    assert extract(folder) == 78
    assert "features that differ in channels, latents, text" in capsys.readouterr().err
    assert isinstance(TextInput.open("hash:4:6", folder / "captions.jsonl"), TextInput)
    assert LatentInput.open("pixels").channels == 3


def test_a_set_is_not_continued_with_other_captions_or_arrays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extract(folder, *texts(folder)) == 0
    captions = folder / "captions.jsonl"
    captions.write_text(captions.read_text().replace("picture 05", "drawing 05"))
    assert extract(folder, *texts(folder)) == 78
    assert "features that differ in text_version: give another --out" in capsys.readouterr().err
    arrays = folder / "arrays"
    arrays.mkdir()
    for name in ("a", "b"):
        np.save(arrays / f"{name}.vae.npy", np.zeros((3, 8, 8), np.float16))
    before = LatentInput.open(f"npy:{arrays}")
    told = Inputs(None, before).describe()
    np.save(arrays / "b.vae.npy", np.ones((3, 8, 8, 1), np.float16))
    assert Inputs(None, before).describe() != told


def test_a_caption_that_two_images_would_have_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = folder / "images"
    for name in ("cat", "dog"):
        (images / name).mkdir()
        shutil.copy(images / "03.v1.png", images / name / "1.png")
    for path in images.glob("*.png"):
        path.unlink()
    captions = folder / "captions.jsonl"
    captions.write_text('{"image": "1.png", "caption": "a cat"}\n')
    assert extract(folder, *texts(folder)) == 78
    assert "caption '1.png' is of two images, " in capsys.readouterr().err
    captions.write_text("".join(f'{{"image": "{name}/1.png", "caption": "a {name}"}}\n' for name in ("cat", "dog")))
    assert extract(folder, *texts(folder)) == 0
    found = [sample.facts for path in (folder / "out").rglob("*.tar") for sample in read_shard(path)]
    assert {facts["src"].rpartition("/")[0][-3:]: facts["caption"] for facts in found} == {
        "cat": "a cat",
        "dog": "a dog",
    }
