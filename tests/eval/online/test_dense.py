from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov3.cli import main as dinov3
from dinov3.config.errors import ConfigError
from dinov3.data.decode import Reading
from dinov3.data.errors import DataError
from dinov3.dense import segment
from dinov3.distributed import context
from dinov3.eval.online.dense import Dense, check_dense
from dinov3.eval.online.scene import Scene
from dinov3.features import cache
from dinov3.features.source_images import SourceImages
from dinov3.models.vit import DinoVisionTransformer
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.folder import RunFolder
from dinov3.runs.progress import ProgressLine
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from tests.dense.conftest import save, write_quarters
from tests.train.tiny import command, tiny_config

DATA = "Synthetic:n=20:size=40"
QUICK = ["steps=6", "warmup=2", "batch=4"]
DENSE: dict[str, object] = {
    "evaluation__dense__tasks": "[seg,depth,match]",
    "evaluation__dense__data": DATA,
    "evaluation__dense__period": 2,
    "evaluation__dense__limit": 12,
    "evaluation__dense__settings": f"{{seg: [{', '.join(QUICK)}], depth: [{', '.join(QUICK)}]}}",
}
SHORT: dict[str, object] = {
    "train__max_steps": 4,
    "checkpointing__period": 2,
    "teacher__momentum_teacher": 0.2,
    "optim__lr": 0.05,
    "optim__warmup_epochs": 0,
    "evaluation__pictures": "false",
}
FIGURES = {"seg_miou", "seg_knn_miou", "depth_rmse", "match_recall"}
TIMES = ("images_per_second", "data_wait", "checkpoint_seconds", "checkpoint_blocked_seconds", "checkpoint_bytes")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, measured before, between and after."""
    out = tmp_path_factory.mktemp("dense") / "run"
    assert main(command(out, **SHORT, **DENSE)) == 0
    return out


@pytest.fixture
def quarters(tmp_path: Path) -> Path:
    return write_quarters(tmp_path / "quarters")


def measured(out: Path) -> list[dict[str, Any]]:
    return read_rows(out / "evaluation.jsonl")


def trained(out: Path) -> tuple[list[dict[str, Any]], str]:
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(out / "metrics.jsonl")]
    return rows, digest(read_tensors(step_folders(out)[-1] / "state", prefix=""))


def test_every_figure_is_measured_before_between_and_after(run: Path) -> None:
    rows = measured(run)
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert all(set(row) == {"step", *FIGURES} for row in rows)
    assert all(0 <= row[name] <= 1 for row in rows for name in FIGURES - {"depth_rmse"})
    assert len({row["depth_rmse"] for row in rows}) == 3, "it is the backbone of that step"


def test_training_has_the_same_numbers_bit_for_bit_with_and_without(run: Path, tmp_path: Path) -> None:
    assert main(command(tmp_path, **SHORT)) == 0
    assert trained(tmp_path) == trained(run)


@pytest.mark.parametrize(
    ("task", "words", "figures"),
    [
        ("seg", [*QUICK, "limit=12"], {"seg_miou": (0, "mIoU"), "seg_knn_miou": (1, "mIoU")}),
        ("depth", [*QUICK, "limit=12"], {"depth_rmse": (0, "rmse")}),
        ("match", ["most_pairs=12"], {"match_recall": (0, "recall@1p")}),
    ],
)
def test_a_figure_is_that_of_the_command_on_the_backbone_of_the_step(
    run: Path, tmp_path: Path, task: str, words: list[str], figures: dict[str, tuple[int, str]]
) -> None:
    places = ["--out", str(tmp_path / "out.jsonl")]
    places += [] if task == "match" else ["--cache", str(tmp_path / "cache")]
    weights = str(run / "ckpt" / "step-00000002")
    assert dinov3(["eval", task, "--weights", weights, "--data", DATA, "--device", "cpu", *places, *words]) == 0
    scores = json.loads((tmp_path / "out.jsonl").read_text())["scores"]
    assert {name: scores[row][key] for name, (row, key) in figures.items()} == {
        name: measured(run)[1][name] for name in figures
    }


def test_a_run_that_was_killed_and_goes_on_has_the_same_rows(run: Path, tmp_path: Path) -> None:
    killed = Path(shutil.copytree(run, tmp_path / "killed"))
    shutil.rmtree(step_folders(killed)[-1])
    (killed / "evaluation.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in measured(run)[:2]))
    assert main(command(killed, **SHORT, **DENSE)) == 0
    assert measured(killed) == measured(run)
    assert trained(killed) == trained(run)


def test_curves_and_page_have_the_figures(run: Path, tmp_path: Path) -> None:
    assert dinov3(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    first, _, last = (row["seg_miou"] for row in measured(run))
    assert f"{100 * first:.1f} → {100 * last:.1f} %" in page
    for text in ("Patch features, %", "Depth from patch features, m", "matching"):
        assert text in page


def scene(cfg: Any, tmp_path: Path) -> Scene:
    torch.manual_seed(0)
    backbone = DinoVisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=1)
    backbone.init_weights()
    none: Any = None  # neither the images of the run nor its records are looked at
    return Scene(cfg, RunFolder(tmp_path), 7, backbone.eval(), none, none, ProgressLine(1, 0, shown=False))


def changed(**more: object) -> Any:
    return tiny_config(**{**DENSE, **more})


def test_nothing_is_agreed_on_with_other_processes_and_no_draw_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object, **more: object) -> None:
        raise AssertionError("the other processes do not answer: they wait for the main one")

    for name in ("barrier", "world_size", "rank"):
        monkeypatch.setattr(context, name, refused)
    monkeypatch.setattr(cache, "cached_features", refused)
    here = scene(changed(), tmp_path)
    before, mode = torch.get_rng_state(), here.backbone.training
    assert set(Dense(here.cfg).measure(here)) == FIGURES
    assert torch.equal(torch.get_rng_state(), before)
    assert here.backbone.training == mode
    assert all(p.grad is None for p in here.backbone.parameters())


def test_images_that_several_tasks_use_go_through_the_backbone_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = SourceImages.__iter__

    def counted(self: SourceImages) -> Any:
        for image in real(self):
            seen.append(1)
            yield image

    monkeypatch.setattr(SourceImages, "__iter__", counted)
    cfg = changed(evaluation__dense__tasks="[seg,depth]")
    Dense(cfg).measure(scene(cfg, tmp_path))
    train, test = 12, 4
    assert len(seen) == train + 2 * test, "the mirrored test images are depth's alone"


def test_the_images_of_the_run_are_matched_when_none_are_named(tmp_path: Path) -> None:
    cfg = tiny_config(evaluation__dense__tasks="[match]", evaluation__dense__limit=5)
    check_dense(cfg)
    assert set(Dense(cfg).measure(scene(cfg, tmp_path))) == {"match_recall"}


def test_a_task_may_have_data_of_its_own_and_more_figures_when_asked(quarters: Path, tmp_path: Path) -> None:
    cfg = changed(
        evaluation__dense__tasks="[seg,match]",
        evaluation__dense__data_of=f"{{match: {quarters}}}",
        evaluation__dense__settings="{seg: [probe=ridge, knn=0, foreground=3], match: [debias_images=4]}",
    )
    check_dense(cfg)
    row = Dense(cfg).measure(scene(cfg, tmp_path))
    assert set(row) == {"seg_miou", "seg_foreground_iou", "match_recall", "match_recall_debiased"}


def test_a_fit_that_is_no_longer_finite_costs_its_figure_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def diverges(*args: object, **more: object) -> None:
        raise FloatingPointError("the loss of step 3 is nan: lower lr")

    monkeypatch.setattr(segment, "fit_head", diverges)
    cfg = changed(evaluation__dense__tasks="[seg,match]")
    assert set(Dense(cfg).measure(scene(cfg, tmp_path))) == {"match_recall"}
    assert "no figure of seg: the loss of step 3 is nan" in caplog.text


def test_features_that_are_no_numbers_cost_the_figures_they_spoil(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = changed(evaluation__dense__settings="{seg: [probe=ridge], depth: [probe=ridge]}")
    here = scene(cfg, tmp_path)
    with torch.no_grad():
        next(here.backbone.parameters()).fill_(torch.nan)
    row = Dense(cfg).measure(here)
    assert all(np.isfinite(value) for value in row.values())
    assert "depth_rmse" not in row
    assert "evaluation.dense: no figure" in caplog.text


def test_a_few_bad_masks_are_said_and_more_end_the_run(
    quarters: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(np.zeros((16, 16), dtype=np.uint8), quarters / "masks" / "01.png")
    only: dict[str, object] = {"evaluation__dense__tasks": "[seg]", "evaluation__dense__data": quarters}
    only["evaluation__dense__settings"] = "{seg: [probe=ridge]}"
    cfg = changed(**only, data__max_bad_frac=0.2)
    assert set(Dense(cfg).measure(scene(cfg, tmp_path))) == {"seg_miou", "seg_knn_miou"}
    assert "1 of 16 images left out" in caplog.text
    cfg = changed(**only, data__max_bad_frac=0.01)
    with pytest.raises(DataError, match=r"evaluation.dense, seg: 1 of 16 .* raise data.max_bad_frac \(0.01\)"):
        Dense(cfg).measure(scene(cfg, tmp_path))


def no_truth(root: Path) -> str:
    shutil.rmtree(root / "masks")
    return "no folder images beside one of masks"


def other_size(root: Path) -> str:
    for path in (root / "masks").iterdir():
        save(np.zeros((16, 16), dtype=np.uint8), path)
    return "none of the first 10 images can be used"


@pytest.mark.parametrize("spoil", [no_truth, other_size])
def test_bad_data_is_one_line_before_anything_is_written(
    quarters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any
) -> None:
    problem = spoil(quarters)
    out = tmp_path / "out"
    words: dict[str, object] = {"evaluation__dense__tasks": "[seg]", "evaluation__dense__data": quarters}
    assert main(command(out, **words)) == 78
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert problem in line
    assert str(quarters) in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"tasks": "[seg]"}, "evaluation.dense.data: null, but seg needs one"),
        ({"tasks": "[seg]", "data": "x", "data_of": "{track: x}"}, "evaluation.dense.data_of.track: track is none of"),
        ({"tasks": "[seg]", "data": "x", "settings": "{dept: [lr=1]}"}, "evaluation.dense.settings.dept: dept is none"),
        ({"tasks": "[match,match]"}, "has one twice"),
        ({"tasks": "[segm]"}, "did you mean seg"),
    ],
)
def test_keys_that_do_not_fit_together_are_named(words: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        tiny_config(**{f"evaluation__dense__{key}": value for key, value in words.items()})
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("task", "word", "problem"),
    [
        ("seg", "stepz=3", "give key=value with one of"),
        ("depth", "low=9", "0 < low < high"),
        ("match", "task=spair", "while a run trains only homography"),
    ],
)
def test_a_setting_without_a_meaning_is_refused_before_the_run(task: str, word: str, problem: str) -> None:
    word = f"{word}, high=3" if word == "low=9" else word
    cfg = tiny_config(
        evaluation__dense__tasks=f"[{task}]",
        evaluation__dense__data=DATA,
        evaluation__dense__settings=f"{{{task}: [{word}]}}",
    )
    with pytest.raises(ConfigError, match=f"evaluation.dense.settings.{task}: .*{problem}"):
        check_dense(cfg)


def test_a_run_reads_its_images_as_it_trains_on_them(tmp_path: Path) -> None:
    cfg = changed(data__value_range="[0, 255]")
    assert scene(cfg, tmp_path).extractor().preprocess.reading == Reading.from_config(cfg)
