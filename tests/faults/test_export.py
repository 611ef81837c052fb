"""F27: an exported file is whole or absent, also for a reader that is quicker than the writer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.weights.export import export
from dinov3.weights.own import load_backbone
from tests.faults.conftest import Reference
from tests.faults.runs import Launcher


def test_f27_an_export_that_is_killed_leaves_the_file_before_it(
    runs: Launcher, reference: Reference, tmp_path: Path
) -> None:
    out = tmp_path / "backbone.pth"
    first, second = step_folders(reference(1))
    export(first, out)
    before = out.read_bytes()
    job = runs.call(
        "dinov3.cli:main",
        ["export", str(second), "--out", str(out)],
        tmp_path / "export.log",
        prepare="tests.faults.hooks:half_an_export",
    )
    assert job.wait() == [-9]
    assert out.read_bytes() == before
    export(second, out)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["backbone.json", "backbone.pth", "backbone.pth.md", "export.log"]
    assert digest(dict(load_backbone(out).state_dict())) == ema(second)


def test_f27_a_reader_meets_only_whole_files(reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "backbone.pth"
    checkpoints = step_folders(reference(1))
    export(checkpoints[0], out)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            export(checkpoints[number % 2], out)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {digest(dict(load_backbone(out).state_dict())) for _ in range(30)}
    finally:
        stop.set()
        writer.join()
    assert seen <= {ema(c) for c in checkpoints}


def ema(checkpoint: Path) -> str:
    return digest(read_tensors(checkpoint / "state", prefix="model_ema.backbone."))


@pytest.mark.parametrize("kind", ["run", "checkpoint"])
def test_f27_the_exported_backbone_is_the_ema_in_every_bit(reference: Reference, kind: str) -> None:
    folder = step_folders(reference(1))[-1]
    backbone = load_backbone(reference(1) if kind == "run" else folder)
    assert digest(dict(backbone.state_dict())) == ema(folder)
