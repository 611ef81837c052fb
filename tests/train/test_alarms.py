from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dinov3.runs.alarms import Alarms
from dinov3.train.alarms import rules_for
from dinov3.train.command import main
from tests.train.tiny import command, tiny_config

HEALTHY = {
    "cls_spread": 0.8,
    "dino_teacher_entropy": 2.0,
    "dino_prototype_usage": 0.7,
    "skipped_steps": 0,
    "data_wait": 0.05,
    "images_per_second": 100.0,
}
LONG = {
    "teacher__warmup_teacher_temp_epochs": 1,
    "train__log_every": 5,
    "student__layerscale": "null",
    "student__drop_path_rate": 0,
    "checkpointing__period": 1000,
    "evaluation__pictures": "false",
}


def spoken(rows: list[dict[str, Any]], total_steps: int = 1000) -> list[tuple[int, str]]:
    alarms = Alarms(rules_for(tiny_config()), total_steps)
    return [(row["iteration"], alarm["text"]) for row in rows for alarm in alarms.look(row)]


def rows(n: int = 30, every: int = 10, **wrong: float) -> list[dict[str, Any]]:
    return [{"iteration": i * every, **HEALTHY, **wrong} for i in range(n)]


def test_a_healthy_log_is_silent(tmp_path: Path) -> None:
    assert spoken(rows()) == []


@pytest.mark.parametrize(
    ("wrong", "advice", "step"),
    [
        ({"cls_spread": 0.01}, "koleo_loss_weight", 120),
        ({"dino_teacher_entropy": math.log(64)}, "teacher.teacher_temp", 120),
        ({"dino_prototype_usage": 1 / 32}, "sinkhorn_knopp", 120),
        ({"data_wait": 0.5}, "train.num_workers", 140),
    ],
)
def test_each_ill_is_named_once_with_advice_after_the_start(
    tmp_path: Path, wrong: dict[str, float], advice: str, step: int
) -> None:
    ((iteration, text),) = spoken(rows(**wrong))
    assert iteration == step
    assert advice in text


def test_a_long_run_is_given_longer_to_get_going(tmp_path: Path) -> None:
    ((iteration, _),) = spoken(rows(200, cls_spread=0.01), total_steps=100_000)
    assert iteration == 1020


def test_a_streak_of_skipped_steps_is_named_at_once_and_a_single_one_is_not(tmp_path: Path) -> None:
    logged = [{**row, "skipped_steps": skipped} for row, skipped in zip(rows(5), (0, 1, 1, 4, 4), strict=True)]
    ((iteration, text),) = spoken(logged)
    assert iteration == 30
    assert "optim.lr" in text


def test_it_speaks_again_only_after_it_was_well(tmp_path: Path) -> None:
    ill, well = rows(cls_spread=0.01)[10:20], rows()[10:13]
    assert len(spoken(ill + well + ill)) == 2


def test_a_rule_broken_now_and_then_speaks_ever_more_rarely(tmp_path: Path) -> None:
    flapping = [row for _ in range(300) for row in rows(6, data_wait=0.3) + rows(1)]  # six lines too slow, one in time
    steps = [step for step, _ in spoken([{**row, "iteration": 200 + i} for i, row in enumerate(flapping)])]
    assert steps[0] == 204
    assert 6 <= len(steps) <= 8, "of 300 times"
    pauses = [b - a for a, b in pairwise(steps)]
    assert all(pause >= 10 * 2**n for n, pause in enumerate(pauses))


def test_what_is_wrong_when_the_pause_ends_is_said_then(tmp_path: Path) -> None:
    ill, well = rows(cls_spread=0.01), rows(1)
    logged = [{**row, "iteration": 200 + i} for i, row in enumerate(ill[:3] + well + ill)]
    assert [step for step, _ in spoken(logged)] == [202, 212]


@pytest.mark.parametrize(
    ("changes", "alarms"),
    [
        # a teacher without Sinkhorn-Knopp, so warm that its targets are uniform
        (
            {
                "optim__epochs": 30,
                "train__batch_size_per_gpu": 4,
                "train__centering": "centering",
                "teacher__teacher_temp": 1.0,
                "teacher__warmup_teacher_temp": 1.0,
            },
            {"teacher_says_nothing"},
        ),
        pytest.param(
            {
                "optim__epochs": 40,
                "teacher__teacher_temp": 0.01,
                "teacher__warmup_teacher_temp": 0.01,
                "teacher__momentum_teacher": 0.9,
            },
            set(),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_a_run_made_to_collapse_raises_the_alarm_within_200_steps_and_a_healthy_one_none(
    tmp_path: Path, changes: dict[str, Any], alarms: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, **LONG, **changes)) == 0
    path = tmp_path / "alarms.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert {row["alarm"] for row in found} - {"waiting_for_data"} == alarms
    assert all(row["iteration"] <= 200 for row in found)
    assert all(row["text"] in capsys.readouterr().err for row in found[:1])
