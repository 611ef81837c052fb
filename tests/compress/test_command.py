"""``dinov3 compress`` from end to end on a folder of small pictures, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.cli import main as cli
from dinov3.compress.quantize import rounded_to_bf16
from dinov3.compress.report import read_report
from dinov3.finetune.classifier import Classifier
from dinov3.finetune.classifier_file import About, write_classifier
from dinov3.system.errors import EXIT_CONFIG
from dinov3.weights.own import load_backbone, write_backbone
from dinov3.weights.parity import tokens_of
from dinov3.weights.provenance import Facts
from tests.compress.models import images, vit


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``w``: a backbone; ``data/{train,test}/{dark,light}/*.png``."""
    root = tmp_path_factory.mktemp("compress")
    (root / "w").mkdir()
    write_backbone(root / "w", vit(), {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 32})
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        for label, (name, level) in enumerate((("dark", 70), ("light", 160))):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 90, (32, 32, 3)) + level - 20 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def run(place: Path, *words: str) -> int:
    return cli(["compress", str(place / "w"), *words])


def test_a_budget_ends_in_a_file_a_table_a_json_and_a_picture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = place / "data", place / "out" / "small.safetensors"
    words = ["--method", "compensate", "--budget", "0.7", "--multiple", "8", "--calibrate", str(data / "train")]
    words += ["--images", "16", "--train", str(data / "train"), "--test", str(data / "test"), "--out", str(out)]
    assert run(place, *words) == 0
    report = read_report(out.with_suffix(".report.json"))
    text = capsys.readouterr().out
    assert report["after"]["weights"] <= 0.7 * report["before"]["weights"]
    assert report["after"]["flops"] < report["before"]["flops"]
    assert report["after"]["bytes"] == out.stat().st_size
    assert report["after"]["milliseconds"] > 0
    assert report["threads"] == torch.get_num_threads()
    assert report["before"]["metrics"]["AUROC"]["value"] > 0.9
    assert set(report["after"]["metrics"]) == set(report["before"]["metrics"])
    assert [row["where"] for row in report["cosines"]] == ["block 0", "block 1", "output"]
    assert all(word in text for word in ("FLOPs", "threads", "AUROC", "cosine", "neurons"))
    with Image.open(out.with_suffix(".report.png")) as picture:
        assert picture.size[0] > 500
    again = load_backbone(out)
    assert sum(p.numel() for p in again.parameters()) == report["after"]["weights"]
    assert report["architecture"]["config"]["block_shapes"] == json.loads(
        json.dumps([shape.__dict__ for shape in again.config.block_shapes])  # type: ignore[union-attr, operator]
    )


def test_only_fewer_bits_and_other_reports_beside_it(place: Path) -> None:
    first, second = place / "out8" / "a.safetensors", place / "out8" / "b.safetensors"
    assert run(place, "--quantize", "bf16", "--out", str(first)) == 0
    beside = str(first.with_suffix(".report.json"))
    assert run(place, "--quantize", "int8-dynamic", "--out", str(second), "--beside", beside) == 0
    report = read_report(second.with_suffix(".report.json"))
    assert report["method"] == "int8-dynamic"
    assert report["cosines_on"] == "fixed pictures"
    assert sorted(path.name for path in first.parent.iterdir()) == [
        *("a.report.json", "a.report.png", "a.safetensors"),
        *("b.report.json", "b.report.png", "b.safetensors"),
    ]


def test_the_seeds_chain_gives_the_model_that_its_rules_give(place: Path) -> None:
    from dinov3.compress.energy import prune
    from dinov3.compress.surgery import rebuilt

    out = place / "chain.safetensors"
    amounts = "attention_heads=0.7,mlp_neurons=0.9,truncated_svd=0.9"
    names = "attention_heads,mlp_neurons,truncated_svd"
    assert run(place, "--method", names, "--amount", amounts, "--out", str(out)) == 0
    model = load_backbone(place / "w")
    for rule, tau in (("heads", 0.7), ("mlp", 0.9), ("svd", 0.9)):
        prune(model, rule, tau)
    assert torch.equal(tokens_of(load_backbone(out), images(2)), tokens_of(rebuilt(model), images(2)))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "nothing to do"),
        (["--method", "heads"], "give --amount"),
        (["--method", "compensate", "--budget", "0.7"], "compensate needs --calibrate"),
        (["--method", "heads", "--amount", "0.9", "--images", "0"], "--images 0: at least 1"),
        (["--method", "heads", "--amount", "0.9", "--train", "DATA/train"], "--train needs --test"),
        (
            ["--method", "heads", "--amount", "0.9", "--test", "DATA/test"],
            "--test needs --train, as the weights have no",
        ),
        (["--compare", "heads", "--method", "mlp"], "leave out --method and --quantize"),
        (["--compare", "heads+bf17", "--amount", "0.9"], "after + comes one of"),
        (["--compare", "bf16", "bf16"], "the same twice"),
        (["--compare", "variance", "--budget", "0.9"], "--compare variance: --method variance needs --calibrate"),
        (["--compare", "heads", "mlp"], "give --amount (of each method) or --budget"),
        (["--compare", "heads", "--budget", "0.01"], "nothing could be made; the first, heads 0.01: left out"),
        (["--method", "heads", "--amount", "0.9", "--train", "X", "--test", "X"], "--test is --train"),
        (["--method", "heads", "--amount", "0.9", "--size", "30"], "--size: size 30: not a multiple"),
        (["--method", "heads", "--amount", "0.9", "--beside", "W/config.json"], "not a report of dinov3 compress"),
        (["--method", "whitened", "--budget", "0.7", "--calibrate", "DATA/none"], "none"),
    ],
)
def test_what_cannot_be_done_is_one_line_code_78_and_no_file(
    place: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("DATA", str(place / "data")).replace("W/", f"{place / 'w'}/") for word in words]
    out = place / "refused" / "x.safetensors"
    assert run(place, *words, "--out", str(out)) == EXIT_CONFIG
    message = capsys.readouterr().err.strip()
    assert text in message
    assert "\n" not in message
    assert not out.parent.exists()


def test_several_are_compared_in_one_call_and_one_that_cannot_be_is_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "compared"
    words = ["--compare", "heads", "heads=0.9,mlp=0.8", "whitened+int8", "bf16", "--budget", "0.7"]
    words += ["--calibrate", str(place / "data" / "train"), "--images", "16", "--out", str(out)]
    assert run(place, *words) == 0
    told = capsys.readouterr().out
    made = {"heads-0.9-mlp-0.8", "whitened+int8", "bf16"}
    assert {path.stem for path in out.glob("*.safetensors")} == made
    rows = {path.name.removesuffix(".report.json"): read_report(path) for path in out.glob("*.report.json")}
    assert set(rows) == made
    assert rows["whitened+int8"]["after"]["bytes"] < 0.6 * rows["whitened+int8"]["before"]["bytes"]
    assert "heads 0.7: left out: " in told
    assert all(row["method"] in told for row in rows.values())
    listed = json.loads((out / "compared.json").read_text())
    assert {Path(name).name for name in listed["reports"]} == {f"{name}.safetensors" for name in made}
    assert (out / "compared.png").is_file()
    assert torch.equal(
        tokens_of(load_backbone(out / "bf16.safetensors"), images(2)),
        tokens_of(rounded_to_bf16(load_backbone(place / "w")), images(2)),
    )


def test_a_classifier_is_scored_by_its_own_head_as_evaluate_does(place: Path) -> None:
    classifier = Classifier(vit(), 2, "cls+mean").eval()
    classifier.init_head(torch.Generator().manual_seed(3))
    about = About(2, "cls+mean", 24, False, "full", "w", 1, ["dark", "light"])
    (place / "c").mkdir()
    write_classifier(place / "c", classifier, about, Facts({"mean": [0.5] * 3, "std": [0.25] * 3, "size": 24}))
    test, out = str(place / "data" / "test"), place / "own" / "small.safetensors"
    words = ["compress", str(place / "c"), "--method", "mlp", "--amount", "0.9", "--test", test, "--out", str(out)]
    assert cli(words) == 0
    report = read_report(out.with_suffix(".report.json"))
    assert report["metrics_of"] == "the classifier's own head"
    for side, backbone in (("before", []), ("after", ["--backbone", str(out)])):
        scores = place / "own" / side
        words = ["finetune", "evaluate", str(place / "c"), *backbone, "--data", test, "--out", str(scores)]
        assert cli(words) == 0
        told = json.loads((scores / "results.json").read_text())["sets"]["test"]["scores"]
        for name in ("AUROC", "Acc", "NLL"):
            assert report[side]["metrics"][name]["value"] == pytest.approx(told[name]["value"], abs=1e-6), (side, name)


def test_the_weights_are_not_written_over_and_another_file_is_with_a_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.safetensors"
    assert run(place, "--quantize", "bf16", "--out", str(out)) == 0
    assert run(place, "--quantize", "bf16", "--out", str(out)) == 0
    assert "small.safetensors was there already: replaced" in capsys.readouterr().out
    for weights, over in ((place / "w", place / "w" / "backbone.safetensors"), (out, out)):
        before = over.read_bytes()
        assert cli(["compress", str(weights), "--quantize", "int8", "--out", str(over)]) == EXIT_CONFIG
        assert "is what is read: give another name" in capsys.readouterr().err
        assert over.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--images", "1", "--budget", "0.7"], "--calibrate: one image says nothing of how much tokens differ"),
        (["--batch-size", "1", "--budget", "0.7"], "--batch-size 1: one image has no spread"),
        (["--budget", "0.01"], "compensate leaves at least 0."),
        (["--size", "0", "--budget", "0.7"], "--size 0: at least 1"),
    ],
)
def test_what_calibration_cannot_do_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    common = [
        "--method",
        "compensate",
        "--calibrate",
        str(place / "data" / "train"),
        "--out",
        str(tmp_path / "a.safetensors"),
    ]
    assert run(place, *common, *words) == EXIT_CONFIG
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_a_last_batch_of_one_image_is_none(place: Path, tmp_path: Path) -> None:
    """17 images in batches of 8: the spread of one class token would be nan."""
    words = ["--method", "compensate", "--budget", "0.7", "--images", "17", "--batch-size", "8"]
    out = tmp_path / "a.safetensors"
    assert run(place, *words, "--calibrate", str(place / "data" / "train"), "--out", str(out)) == 0
    assert all(
        torch.isfinite(value).all() for value in load_backbone(out).state_dict().values() if value.is_floating_point()
    )
