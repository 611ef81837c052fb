"""The golden cases on another device than the CPU, as far as a machine without one can tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.faults.runs import Launcher
from tests.golden.case import ACCELERATOR_SLACK, Case
from tests.golden.on_device import DrawnOnCpu, elsewhere, exact_products

DATA = Path(__file__).parent / "data"
DAILY = [
    "B01_head_n1",
    "B03_ibot_loss",
    *(
        f"G{name}"
        for name in (
            "04_lora_linear",
            "07_seg_metrics",
            "08_slide_inference",
            "09_seg_linear_head",
            "10_depth_metrics",
            "13_correspondence",
        )
    ),
]
NOWHERE = ("A30", "B10", "F0", "G05", "G06", "G15", "G16")  # drawn on the CPU, on gloo, or without a tensor of a device
ON_DEVICE = sorted(p.stem for p in DATA.glob("*.json") if p.stem[0] in "ABDG" and not p.stem.startswith(NOWHERE))


def judge(runs: Launcher, log: Path, cases: list[str]) -> None:
    """Every case has its numbers with its tensors on the device; what is checked lies there, or is a plain number."""
    job = runs.call("tests.golden.elsewhere:main", cases, log)
    job.wait()
    rows = [json.loads(line) for line in job.text().splitlines() if line.startswith("{")]
    if rows and "missing" in rows[0]:
        pytest.skip(rows[0]["missing"])
    assert [row["case"] for row in rows] == cases, job.text()
    for row in rows:
        assert row["status"] == "ok", f"{row['case']}: {row['detail']}\n{job.text()[-2000:]}"
        assert row["operations"] > 0, f"{row['case']} did nothing there"
        assert row["there"] == row["tensors"] or (row["case"][0] in "ADG" and row["there"] > row["tensors"] / 4), row


def test_golden_cases_keep_to_the_device_they_are_given(runs: Launcher, tmp_path: Path) -> None:
    judge(runs, tmp_path / "log", DAILY)


@pytest.mark.nightly
def test_all_golden_cases_keep_to_the_device_they_are_given(runs: Launcher, tmp_path: Path) -> None:
    judge(runs, tmp_path / "log", [name for name in ON_DEVICE if name not in DAILY])


def test_tolerances_are_wider_on_an_accelerator_and_as_stored_on_a_cpu() -> None:
    here, there = Case(DATA / "B04_koleo"), Case(DATA / "B04_koleo", torch.device("meta"))
    stored = here.meta["tolerance"]["default"]
    assert here.tolerance("0/loss") == stored
    assert there.tolerance("0/loss") == {name: limit * ACCELERATOR_SLACK for name, limit in stored.items()}
    assert ACCELERATOR_SLACK <= 3


def test_draws_of_a_cpu_are_not_changed_and_those_of_another_device_come_from_it() -> None:
    torch.manual_seed(3)
    plain = torch.randperm(7), torch.rand(2), torch.empty(2).uniform_(0, 3)
    torch.manual_seed(3)
    with DrawnOnCpu():
        drawn = torch.randperm(7), torch.rand(2), torch.empty(2).uniform_(0, 3)
    assert all(torch.equal(a, b) for a, b in zip(plain, drawn, strict=True))
    assert elsewhere("cuda:0")
    assert not elsewhere(torch.device("cpu"))
    assert not elsewhere(None)


def test_products_are_exact_inside_and_as_before_afterwards() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with exact_products():
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
