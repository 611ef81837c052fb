"""From images to samples with the commands, in two sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.cli import main
from dinov3.features.extract import load
from dinov3.generate.buckets import Bucket
from dinov3.generate.inputs.pixels import PooledPixels
from dinov3.generate.sampling.asked import Trained, mixed
from dinov3.generate.sampling.command import TOGETHER, opened
from dinov3.generate.shards import read_shard
from dinov3.generate.training.model_file import load_dit
from dinov3.weights.own import write_backbone
from tests.generate.sets import backbone, write_images
from tests.generate.training.made import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, images, their shards, and a run of two steps."""
    at = tmp_path_factory.mktemp("sample")
    for name, seed in (("weights", 0), ("other", 1)):
        (at / name).mkdir()
        write_backbone(at / name, backbone(seed), {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 64})
    images = write_images(at / "images")
    rows = [{"image": path.name, "caption": f"picture {path.name}"} for path in images.iterdir()]
    (at / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["dit", "extract", "--weights", str(at / "weights"), "--data", str(images), "--side", "64"]
    words += ["--text", "hash:4:6", "--captions", str(at / "captions.jsonl"), "--latents", "pixels"]
    assert main([*words, "--out", str(at / "shards"), "--resolution-shift", "2"]) == 0
    train = [*TINY, f"train.dataset_path={at / 'shards'}", "train.batch_size_per_gpu=2", "train.max_steps=2"]
    train.append(f"validation.backbone={at / 'weights'}")
    assert main(["dit", "train", "--output-dir", str(at / "run"), *train]) == 0
    return at


def ask(folder: Path, *words: str) -> int:
    return main(["dit", "sample", str(folder / "run"), "--steps", "2", "--device", "cpu", *words])


def image(folder: Path, number: int) -> str:
    return str(folder / "images" / f"{number:02d}.v1.png")


def pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_an_image_is_seen_as_it_is_stored(folder: Path) -> None:
    trained = Trained(load_dit(folder / "run", torch.device("cpu")))
    extractor = trained.prepared(load(folder / "weights", size="native", device="cpu"))
    for path in sorted((folder / "shards").rglob("*.tar")):
        for sample in read_shard(path):
            seen = trained.see(extractor, Path(sample.facts["src"]))
            assert str(seen.bucket) == sample.facts["bucket"]
            np.testing.assert_allclose(seen.patches, sample.patches, atol=2e-3)
            np.testing.assert_allclose(seen.cls, sample.cls, atol=2e-3)
    other = trained.see(extractor, Path(image(folder, 1)), seen.bucket)
    assert torch.equal(mixed(seen, other, 1.0).patches, seen.patches)
    assert torch.equal(mixed(seen, other, 0.0).cls, other.cls)


def test_images_from_an_image_a_text_both_two_images_and_nothing(folder: Path, tmp_path: Path) -> None:
    weights = ["--weights", str(folder / "weights")]
    for name, words, size in (
        ("image", ["--image", image(folder, 1), *weights], (80, 48)),
        ("text", ["--text", "a ring"], (64, 64)),
        ("both", ["--image", image(folder, 0), "--text", "a ring", "--guidance", "chained", *weights], (64, 64)),
        ("mixed", ["--image", image(folder, 0), "--mix", image(folder, 2), "--method", "heun", *weights], (64, 64)),
        ("sized", ["--image", image(folder, 0), "--size", "32x96", *weights], (32, 96)),
        ("nothing", ["--size", "96x32"], (96, 32)),
    ):
        assert ask(folder, "--out", str(tmp_path / name), "--seeds", "3", "4", *words) == 0
        assert set(pictures(tmp_path / name)) == {"seed-3.png", "seed-4.png", "grid.png"}
        with Image.open(tmp_path / name / "seed-3.png") as found:
            assert abs(found.width / found.height - size[0] / size[1]) < 0.2
    assert ask(folder, "--out", str(tmp_path / "alone"), "--seeds", "4", "--text", "a ring") == 0
    assert pictures(tmp_path / "alone")["seed-4.png"] == pictures(tmp_path / "text")["seed-4.png"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--image", "{image}"], "--image needs --weights"),
        (["--image", "{image}", "--weights", "{at}/other"], "not the backbone whose features"),
        (["--image", "{image}", "--weights", "{at}/weights", "--interpolation", "bilinear"], "in another way"),
        (["--mix", "{image}"], "--mix needs --image"),
        (["--size", "30x30"], "both multiples of 16"),
        (["--steps", "0"], "at least 1"),
        (["--image", "{image}", "--mix", "{image}", "--mix-share", "2", "--weights", "{at}/weights"], "from 0 to 1"),
        (["--image", "{at}/captions.jsonl", "--weights", "{at}/weights"], "captions.jsonl: cannot be used"),
        (["--image", "{at}/gone.png", "--weights", "{at}/weights"], "gone.png: cannot be used"),
        (["--text", "a", "--text-scale", "nan"], "--text-scale nan: give a finite number"),
        (["--text", "a", "--guidance", "full", "--dino-scale", "2"], "--guidance full pushes nothing away"),
        (["--t5", "{at}"], "--t5 is for a text"),
        (["--text", "a", "--t5", "{at}"], "texts came from hash: leave it out"),
        (["--vae", "{at}"], "latents are pixels: leave it out"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(image=image(folder, 0), at=folder) for word in words]
    assert ask(folder, "--out", str(tmp_path / "out"), *filled) == 78
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_however_many_seeds_a_few_at_a_time_are_conditioned_and_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = PooledPixels.decode
    monkeypatch.setattr(PooledPixels, "decode", lambda self, z: decoded.append(len(z)) or decode(self, z))  # type: ignore[func-returns-value]
    seeds = [*map(str, range(9)), "0"]
    assert ask(folder, "--out", str(tmp_path), "--size", "32x32", "--seeds", *seeds) == 0
    assert decoded == [TOGETHER, TOGETHER, 1]
    assert len(pictures(tmp_path)) == 9 + 1


def test_a_given_image_is_shown_as_the_backbone_was_shown_it(tmp_path: Path) -> None:
    turned = Image.new("RGB", (32, 16), (0, 0, 255))
    turned.paste((255, 0, 0), (0, 0, 16, 16))
    exif = turned.getexif()
    exif[0x0112] = 6  # what is left is to be the top
    turned.save(tmp_path / "turned.png", exif=exif)
    shown = opened(tmp_path / "turned.png", Bucket(16, 32))
    assert shown[:, 2, 8].tolist() == [1, 0, 0]
    assert shown[:, -3, 8].tolist() == [0, 0, 1]
    Image.fromarray(np.full((16, 16), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert opened(tmp_path / "deep.png", Bucket(16, 16)).mean() == pytest.approx(0.5, abs=0.01)


def test_a_run_that_diverged_keeps_no_limit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, row in (
        ("nan", {"step": 0, "recon_mse": math.nan, "recon_mse_64x64": None, "frechet_recon": None}),
        ("zero", {"step": 0, "recon_mse": 0.0}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.jsonl").write_text(json.dumps(row) + "\n" + '{"recon_mse": 1.0}\n')
    assert main(["dit", "report", str(tmp_path / "nan"), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert "recon_mse                      nan (below 0.2: no)" in capsys.readouterr().out
    for one, other in (("nan", "zero"), ("zero", "nan"), ("zero", "zero")):
        assert main(["dit", "report", str(tmp_path / one), "--baseline", str(tmp_path / other)]) == 0
        assert "recon_gain                     nan" in capsys.readouterr().out
    assert main(["dit", "report", str(tmp_path / "zero"), "--max-recon", "nan"]) == 78


def test_the_report_judges_compares_and_shows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    words = ["dit", "report", str(folder / "run"), "--out", str(page), "--max-recon", "100", "--max-swap-ratio", "0.01"]
    assert main([*words, "--baseline", str(folder / "run")]) == 0
    told = capsys.readouterr().out
    assert "(below 100: yes)" in told
    assert "(below 0.01: no)" in told
    gain = next(line for line in told.splitlines() if line.startswith("recon_gain"))
    assert float(gain.split()[1]) == 0
    assert "frechet_recon" in told
    text = page.read_text()
    assert text.count("data:image/png;base64,") == len(list((folder / "shards").glob("bucket_*")))
    assert main(["dit", "report", str(tmp_path)]) == 78
    assert "no evaluation of `dinov3 dit train`" in capsys.readouterr().err


def test_the_extraction_has_told_what_the_size_does_to_features(folder: Path) -> None:
    told = json.loads((folder / "shards" / "resolution.json").read_text())
    first, *others = told["sizes"]
    assert told["reference"] == first["bucket"] == "64x64"
    assert first["patch_cosine"] == pytest.approx(1, abs=1e-5)
    assert len(others) >= 2
    assert all(-1 <= size["patch_cosine"] < 1 and -1 <= size["cls_cosine"] < 1 for size in others)
    with Image.open(folder / "shards" / "resolution.png") as picture:
        assert picture.width > 300
