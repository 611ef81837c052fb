from __future__ import annotations

import json

import pytest
import torch

from benchmarks import step
from benchmarks.in_turns import OtherFailed
from benchmarks.reference import H200, OFFICIAL_CPU, official
from benchmarks.synthetic_step import Recipe, synthetic_batches, synthetic_masks

TINY = [
    "--batch",
    "2",
    "--global-size",
    "32",
    "--local-size",
    "16",
    "--locals",
    "1",
    "--prototypes",
    "32",
    "--steps",
    "1",
]


def test_a_measurement_is_one_json_line_with_the_reference_of_its_device(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("the CPU's reference is for a machine without a GPU")
    assert step.main([*TINY, "--arch", "vit_tiny"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds_per_step"] > 0
    assert found["reference"]["machine"] == OFFICIAL_CPU.machine
    assert set(found["share"]) >= {"teacher", "student forward", "backward", "optimizer", "ema"}
    assert "profile" not in found


def test_the_reference_is_that_of_the_device_and_of_the_nearest_batch() -> None:
    assert official("vit_base", 8, "cpu") is OFFICIAL_CPU
    large = official("vit_large", 60, "cuda")
    assert large is not None
    assert (large.machine, large.batch, large.images_per_second) == (H200, 64, 199)
    assert official("vit_giant2", 64, "cuda") is None


def test_one_turn_has_all_arguments_but_those_of_the_turns() -> None:
    given = ["--arch", "vit_base", "--other", "python a.py --batch 8", "--rounds=5", "--steps", "3"]
    assert step.without_other(given) == ["--arch", "vit_base", "--steps", "3"]


def test_another_program_that_fails_ends_the_comparison_with_its_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ours: list[str], other: str, rounds: int) -> None:
        assert ours[2:] == TINY
        assert (other, rounds) == ("their program", 1)
        raise OtherFailed("their program: exit code 1")

    monkeypatch.setattr(step, "in_turns", fail)
    assert step.main([*TINY, "--other", "their program", "--rounds", "1"]) == 1
    assert capsys.readouterr().err == "their program: exit code 1\n"


def test_batches_share_their_crops_and_differ_in_how_many_patches_are_masked() -> None:
    recipe = Recipe(batch=4, global_size=64, local_size=32, locals=1)
    first, second, third = synthetic_batches(recipe, torch.device("cpu"))
    assert first.collated_global_crops is third.collated_global_crops
    counts = [len(batch.mask_indices_list) for batch in (first, second, third)]
    assert counts == [counts[0], counts[0] - 1, counts[0] - 2]
    assert torch.equal(first.collated_masks.flatten().nonzero().flatten(), first.mask_indices_list)


def test_half_of_the_global_crops_are_masked_at_the_official_sizes() -> None:
    masks = synthetic_masks(Recipe(), fewer=0)
    assert int((masks.sum(1) > 0).sum()) == 128
    assert abs(int(masks.sum()) - 9831) < 150  # what the official recipe masks at batch 128
