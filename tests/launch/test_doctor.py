from __future__ import annotations

import dataclasses
import json
import pwd
from pathlib import Path
from typing import Any

import pytest

from dinov3 import cli
from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.launch import machine as facts
from dinov3.launch.doctor import WIDTH, Finding, checkpoint_bytes, examine
from dinov3.launch.machine import EXTRAS, Folder, Gpu, Machine, probe
from tests.train.tiny import overrides, tiny_config

H100 = Gpu("NVIDIA H100", 80_000_000_000, (9, 0), True, ("flash", "cudnn", "efficient"))
V100 = Gpu("Tesla V100", 32_000_000_000, (7, 0), False, ("efficient",))
DISK = Folder(Path("/runs"), True, 2_000_000_000_000, True, 0.0)
NODE = Machine(
    python="3.12.1",
    system="Linux x86_64",
    torch="2.13.0+cu128",
    torchvision="0.28.0",
    vision_operators=True,
    cuda_build="12.8",
    driver=True,
    gpus=(H100,) * 8,
    nccl="2.27.5",
    compiler="/usr/bin/gcc",
    triton=True,
    cores=128,
    memory=1_000_000_000_000,
    shm=64_000_000_000,
    open_files=65536,
    extras=dict.fromkeys(EXTRAS, True),
    wandb_key=True,
    sbatch=True,
    folder=DISK,
)
LAPTOP: dict[str, Any] = {"gpus": (), "nccl": None, "driver": False, "cuda_build": None, "cores": 12}
BIG = 6_000_000_000  # bytes of a checkpoint


def config(*opts: str) -> Config:
    return load_config(None, list(opts))


def finding(about: str, machine: Machine = NODE, *opts: str) -> Finding:
    return next(f for f in examine(machine, config(*opts), BIG) if f.about == about)


def test_a_good_node_is_all_ok() -> None:
    findings = examine(NODE, config("wandb.enabled=true", "wandb.mode=online"), BIG)
    assert {f.status for f in findings} == {"ok"}
    assert not [f for f in findings if f.advice]
    assert finding("gpu").what == "8 x NVIDIA H100, 80 GB, capability 9.0"
    assert finding("attention").what == "fused: flash, cudnn, efficient"


def test_a_laptop_without_a_gpu_can_train_and_is_told_so() -> None:
    laptop = dataclasses.replace(NODE, **LAPTOP)
    assert finding("gpu", laptop).status == "warn"
    assert finding("gpu", laptop, "train.device=cuda").status == "fail"
    assert finding("compile", laptop).what == "off: it pays on GPUs only"
    assert "nccl" not in {f.about for f in examine(laptop, Config(), BIG)}


@pytest.mark.parametrize(
    ("about", "changes", "opts", "status", "advice"),
    [
        ("torch", {"cuda_build": None}, (), "warn", "install a torch built for CUDA"),
        ("torch", {"vision_operators": False, "torchvision": None}, (), "ok", ""),
        ("torch", {"vision_operators": False}, (), "warn", "Other programs here cannot even `import torchvision`"),
        ("gpu", {"gpus": (H100, V100)}, (), "warn", "choose equal ones"),
        ("nccl", {"nccl": None}, (), "fail", "install a torch with NCCL"),
        ("precision", {"gpus": (V100,)}, (), "warn", "has no bf16"),
        ("precision", {"gpus": (V100,)}, ("compute_precision.param_dtype=fp32",), "ok", ""),
        ("attention", {"gpus": (dataclasses.replace(H100, attention=()),)}, (), "warn", "update torch"),
        ("compile", {"triton": False}, (), "fail", "install triton, or train.compile=false"),
        ("compile", {"compiler": None}, (), "fail", "install a C compiler, or train.compile=false"),
        ("compile", {"compiler": None}, ("train.compile=false",), "ok", ""),
        ("cores", {"cores": 16}, (), "warn", "2 workers a process will be used"),
        ("cores", {}, ("train.num_workers=0",), "warn", "set train.num_workers"),
        ("memory", {"memory": 20_000_000_000}, (), "warn", "lower train.num_workers"),
        ("shared memory", {"shm": 64_000_000}, (), "warn", "--shm-size"),
        ("shared memory", {"shm": 64_000_000, "gpus": (H100,)}, (), "ok", ""),
        ("open files", {"open_files": 1024}, (), "warn", "ulimit -n 65536"),
        ("disk", {"folder": dataclasses.replace(DISK, free=BIG)}, (), "fail", "make room for 24.0 GB"),
        ("disk", {"folder": dataclasses.replace(DISK, free=3 * BIG)}, (), "warn", "make room for 24.0 GB"),
        ("disk", {"folder": dataclasses.replace(DISK, free=5 * BIG)}, (), "ok", ""),
        ("disk", {"folder": dataclasses.replace(DISK, writable=False)}, (), "fail", "choose another --output-dir"),
        ("locks", {"folder": dataclasses.replace(DISK, locks=False)}, (), "warn", "two runs in one folder"),
        ("clock", {"folder": dataclasses.replace(DISK, clock_skew=-90.0)}, (), "warn", "synchronised"),
        ("extras", {"extras": {"tensorboard": False}}, ("logging.tensorboard=true",), "fail", "dinov3[tensorboard]"),
        ("extras", {"extras": {"tensorboard": False}}, (), "ok", ""),
        ("wandb", {"wandb_key": False}, ("wandb.enabled=true", "wandb.mode=online"), "warn", "wandb login"),
        ("wandb", {"wandb_key": False}, ("wandb.enabled=true",), "ok", ""),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    about: str, changes: dict[str, Any], opts: tuple[str, ...], status: str, advice: str
) -> None:
    found = finding(about, dataclasses.replace(NODE, **changes), *opts)
    assert found.status == status
    assert advice in found.advice
    assert bool(found.advice) == (status != "ok")


def test_no_line_is_wider_than_the_page_and_no_word_is_lost() -> None:
    long = Finding("disk", "fail", "word " * 60, "do this " * 40)
    lines = long.text().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert long.text().split().count("word") == 60
    assert long.text().split().count("do") == 40


def test_the_size_of_a_checkpoint_is_that_of_the_files(tmp_path: Path) -> None:
    from dinov3.runs.step_folders import step_folders
    from dinov3.train.command import main

    assert main(["--output-dir", str(tmp_path), *overrides(train__max_steps=1, evaluation__pictures="false")]) == 0
    written = sum(f.stat().st_size for f in (step_folders(tmp_path)[-1] / "state").iterdir())
    assert checkpoint_bytes(tiny_config()) == pytest.approx(written, rel=0.05)


def test_this_machine_can_be_looked_at_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "not there" / "run"
    code = cli.main(["doctor", "--output-dir", str(out), *overrides()])
    text = capsys.readouterr().out
    assert code == (1 if "not ready" in text else 0)
    assert f"free in {tmp_path}" in " ".join(text.split())
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= WIDTH
    assert list(tmp_path.iterdir()) == []


def test_json_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(NODE, compiler=None)
    monkeypatch.setattr(facts, "probe", lambda out: broken)
    assert cli.main(["doctor", "--json", *overrides(train__num_workers=1)]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert [f["about"] for f in findings if f["status"] == "fail"] == ["compile"]
    assert cli.main(["doctor", *overrides(train__num_workers=1)]) == 1
    assert "not ready: 1 to repair, 0 to look at" in capsys.readouterr().out


def test_a_wrong_config_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "optim.lrr=1"]) == 78
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(facts.tempfile, "NamedTemporaryFile", refuse)
    assert not probe(tmp_path).folder.writable


def test_a_user_without_a_home_is_examined_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert not probe(tmp_path).wandb_key
