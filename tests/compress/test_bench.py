"""``dinov3 bench infer`` measures what it says, and says what it could not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dinov3.cli import main
from dinov3.compress.bench import Bench, Case
from dinov3.models.convnext import ConvNeXt
from dinov3.models.int4 import group_of, problem_with
from dinov3.weights.own import write_backbone
from tests.compress.models import images, vit


def test_every_case_has_its_figures_and_only_fp32_is_itself() -> None:
    bench = Bench(vit(), torch.device("cpu"))
    cases = [Case(precision, False, 32, 3) for precision in ("fp32", "bf16", "int8", "int8-dynamic")]
    rows = {row.case.precision: row for row in bench.rows(cases, images(2))}
    assert [*rows] == [case.precision for case in cases]
    for row in rows.values():
        assert row.problem == ""
        assert row.milliseconds is not None
        assert row.images_per_second == pytest.approx(3000 / row.milliseconds)
        assert row.least_cosine is not None
        assert 0.98 < row.least_cosine <= 1 + 1e-9
    assert rows["fp32"].least_cosine == pytest.approx(1, abs=1e-12)
    assert rows["bf16"].least_cosine != rows["fp32"].least_cosine
    assert rows["int8"].weights < 0.6 * rows["fp32"].weights  # type: ignore[operator]
    assert rows["bf16"].weights == rows["fp32"].weights, "autocast keeps the weights"


def test_the_largest_batch_follows_from_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(vit(embed_dim=192, depth=1, num_heads=3), torch.device("cpu"))
    monkeypatch.setattr("dinov3.compress.bench.available_memory", lambda: 10**9)
    most, how = bench.largest_batch("fp32", images(1))
    assert "1.0 GB that are free" in how
    assert most is None or 10 < most < 10**6
    monkeypatch.setattr("dinov3.compress.bench.available_memory", lambda: 2**62)
    assert bench.largest_batch("fp32", images(1)) == (None, "the system does not tell what memory a batch takes")


def test_four_bits_are_for_gpus_and_say_so_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(vit(), torch.device("cpu"))
    (row,) = bench.rows([Case("int4", False, 32, 2)], images(2))
    assert row.problem == "cpu has no int4 kernels: a CUDA GPU of capability 8.0 or later is needed"
    assert bench.largest_batch("int4", images(1)) == (None, row.problem)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old card")
    assert problem_with(torch.device("cuda")) == "Old card has no int4 kernels: capability 8.0 or later is needed"
    sides = [group_of(torch.nn.Linear(width, 8)) for width in (384, 192, 96, 40)]
    assert sides == [128, 64, 32, None]


def test_on_a_gpu_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(vit(), torch.device("cpu"))
    bench.device = torch.device("cuda")
    for limit in (1, 2, 3, 100, 1000):
        tried: list[int] = []

        def fits(case: Case, image: torch.Tensor, batch: int, limit: int = limit, tried: list[int] = tried) -> bool:
            tried.append(batch)
            return batch <= limit

        monkeypatch.setattr(bench, "_fits", fits)
        most, how = bench.largest_batch("fp32", images(1))
        assert how == "tried"
        assert most is not None
        assert most <= limit <= most * 17 / 16 + 1
        assert len(tried) == len(set(tried)), "no batch is tried twice"


def test_what_cannot_be_is_a_row_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ConvNeXt(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    model.init_weights(torch.Generator().manual_seed(0))
    write_backbone(tmp_path, model.eval(), {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 32})
    out, picture = tmp_path / "bench.json", tmp_path / "images"
    picture.mkdir()
    Image.new("RGB", (40, 32), (200, 60, 90)).save(picture / "0.png")
    assert main(["bench", "infer", str(tmp_path), "--precision", "fp32", "--batch", "2", "--images", str(picture)]) == 0
    assert (
        main(["bench", "infer", str(tmp_path), "--precision", "int8", "fp32", "--batch", "2", "--out", str(out)]) == 0
    )
    said = capsys.readouterr().out
    assert "ConvNeXt: only vision transformers" in said
    found = json.loads(out.read_text())
    assert [(row["precision"], bool(row["problem"])) for row in found["rows"]] == [("int8", True), ("fp32", False)]
    assert found["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--size", "20"], "--size: "),
        (["--batch", "0"], "--batch 0: at least 1"),
        (["--device", "cuda:99"], "--device: device 'cuda:99' is not there"),
        (["--images", "/nowhere"], "/nowhere"),
    ],
)
def test_a_wrong_option_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    write_backbone(tmp_path, vit(), {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 32})
    assert main(["bench", "infer", str(tmp_path), *words]) == 78
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
