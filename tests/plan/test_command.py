from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from dinov3 import cli
from dinov3.config.load import load_config
from dinov3.plan.command import _dtype
from dinov3.plan.depth import cost_of_step
from dinov3.plan.estimate import CONTEXT, USABLE, plan
from dinov3.plan.state import shard, states
from dinov3.system.cards import CARDS, Card, card
from tests.train.tiny import overrides, tiny_config

TINY = overrides(train__max_steps=6)


def test_json_says_what_fits_how_long_it_takes_and_what_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *TINY, "--gpus", "2", "--card", "l4", "--share", "0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    known = card("l4")
    assert known is not None
    assert told["gpus"] == 2
    assert told["images_a_step"] == 16
    assert told["steps"] == 6
    assert told["fits"] is True
    assert told["usable_bytes"] == known.memory * USABLE - CONTEXT
    assert told["peak_bytes"] == sum(told["peak"].values())
    assert told["largest_batch_of_a_process"] > 100 * 8
    assert told["seconds_a_step"] == pytest.approx(told["flops_an_image"] * 8 / (0.5 * 121e12))
    assert told["gpu_hours"] == pytest.approx(2 * told["seconds_a_step"] * 6 / 3600)
    assert told["sent_bytes_of_a_process"] > 4 * told["parameters"] * 0.99  # a sum among two sends every gradient once
    assert {row["strategy"] for row in told["states"]} > {"NO_SHARD", "FULL_SHARD"}
    assert not dist.is_initialized()


def test_the_table_names_what_is_largest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *TINY]) == 0
    out = capsys.readouterr().out
    assert "activations and logits" in out
    assert "name a card" in out
    assert "sent" not in out  # alone there is nobody to send to
    assert not dist.is_initialized()


def test_a_tiny_model_is_told_in_mib_and_nothing_in_it_is_of_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *TINY]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("time")]
    assert not [line for line in told if "GPU" in line or "GiB" in line]
    memory = re.search(r"memory +([0-9.]+) MiB a process", "\n".join(told))
    assert memory is not None
    assert 1 < float(memory[1]) < 1024
    work = re.search(r"work +([0-9.e-]+) GFLOP an image", "\n".join(told))
    assert work is not None
    assert float(work[1]) > 0


@pytest.mark.nightly  # 15 s: a ViT-L on eight cards
def test_the_example_of_the_documents_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/plan.md").read_text()
    words = re.search(r"`dinov3 (plan student\.preset[^`]*)`", page)
    assert words is not None
    assert cli.main(words[1].split()) == 0
    assert f"```\n{capsys.readouterr().out.strip()}\n```" in page


def test_a_model_that_is_too_large_is_said_not_to_fit(capsys: pytest.CaptureFixture[str]) -> None:
    words = overrides(train__batch_size_per_gpu=65536, crops__global_crops_size=96, crops__local_crops_size=48)
    assert cli.main(["plan", *words, "--card", "l4"]) == 0
    out = capsys.readouterr().out
    assert "DOES NOT FIT into 19.4 GiB" in out


@pytest.mark.parametrize("words", [[], ["student.arch=vit_none"], ["optim.lr=0.1"]])
def test_what_cannot_be_planned_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *words]) == 78
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus", "0"], "argument --gpus: 0 is no whole number from 1 to 100,000"),
        (["--gpus", "many"], "argument --gpus: many is no whole number from 1 to 100,000"),
        (["--gpus", "3000000000"], "argument --gpus: 3000000000 is no whole number from 1 to 100,000"),
        (["--share", "1.5"], "argument --share: 1.5 is no number from 0.001 to 1"),
        (["--share", "half"], "argument --share: half is no number from 0.001 to 1"),
        (["--share", "nan"], "argument --share: nan is no number from 0.001 to 1"),
        (["--card", "abacus"], "argument --card: invalid choice"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["plan", *TINY, *words])
    assert said in capsys.readouterr().err


def test_a_folder_is_sent_to_init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(tmp_path)]) == 78
    assert f"plan takes no images: `dinov3 init {tmp_path} --plan`" in capsys.readouterr().err


def test_a_card_and_a_cpu_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *TINY, "train.device=cpu", "--card", "l4"]) == 78
    assert "--card: contradicts train.device=cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "named", "gpus", "there", "expected"),
    [
        ([], None, 1, False, "float32"),
        (["compute_precision.cpu_dtype=bf16"], None, 1, False, "bfloat16"),
        (["compute_precision.cpu_dtype=bf16", "compute_precision.param_dtype=fp32"], None, 1, False, "float32"),
        ([], None, 1, True, "bfloat16"),
        ([], None, 2, False, "bfloat16"),
        ([], "l4", 1, False, "bfloat16"),
        (["train.device=cpu"], None, 1, True, "float32"),
        (["train.device=cuda"], None, 1, False, "bfloat16"),
    ],
)
def test_the_number_format_is_that_of_the_machine_the_run_will_be_on(
    keys: list[str], named: str | None, gpus: int, there: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``there``: a GPU, on the machine that plans."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    cfg = load_config(None, ["compute_precision.param_dtype=bf16", "train.device=auto", *keys])
    assert str(_dtype(cfg, named and card(named), gpus)) == f"torch.{expected}"


def test_shards_are_cut_along_the_first_dimension_and_none_is_larger_than_the_first() -> None:
    one, other = torch.empty(1, 1, 56), torch.empty(65, 31, requires_grad=True)
    assert shard(one, 4) == 56
    assert shard(other, 4) == 17 * 31
    rows = {state.strategy: state for state in states([other], [one], 4, 2)}
    assert rows["NO_SHARD"].total == 4 * (4 * 65 * 31 + 56)
    assert rows["HYBRID_SHARD"].weights == 4 * 33 * 31
    assert rows["FULL_SHARD"].moments == 8 * 17 * 31
    assert [state.strategy for state in states([other], [], 1, 8)] == ["NO_SHARD"]


def test_every_card_has_figures_that_can_be() -> None:
    assert all(50 < known.tflops < 5000 and 1e10 < known.memory < 1e12 for known in CARDS)
    assert len({known.name for known in CARDS}) == len(CARDS)


@pytest.mark.nightly  # 20 s: the step is planned for a dozen batches
def test_the_largest_batch_is_the_same_from_a_small_batch_as_from_a_large_one_and_fits() -> None:
    found = {}
    for batch in (2, 64):
        cfg = tiny_config(train__batch_size_per_gpu=batch, student__depth=1)
        small = Card("small", "", 1, (CONTEXT + 60e6) / USABLE)
        made = plan(cfg, card=small, gpus=1, per_machine=1, dtype=torch.float32)
        assert made.largest_batch is not None
        found[batch] = made.largest_batch
    assert found[2] == pytest.approx(found[64], rel=0.01)
    at_most = tiny_config(train__batch_size_per_gpu=found[2], student__depth=1)
    assert cost_of_step(at_most, dtype=torch.float32).peak_bytes <= 60e6 * 1.005
