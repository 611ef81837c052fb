from __future__ import annotations

import pytest
import torch
from torch import nn

from dinov3.config.load import load_config
from dinov3.contracts import CropBatch, StepContext, StudentView, TeacherView
from dinov3.objectives.gram import Gram, select
from tests.host_waits import HostWaits

N, P, D = 4, 9, 6  # crops, patches, width


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss(*overrides: str, iteration: int = 0) -> float:
    cfg = load_config(None, ["gram.use_loss=true", "gram.source=ema", *overrides])
    masks = torch.arange(N * P).reshape(N, P) % 3 == 0
    pixels = torch.zeros(N, 1, 1, 1)
    batch = CropBatch(
        pixels, pixels[:0], masks, masks.flatten().nonzero()[:, 0], torch.ones(12), masks.sum()[None], 12, 2
    )
    view = StudentView(torch.zeros(2, 2, D), torch.zeros(2, 2, 1), randn(N, P, D, seed=0), (3, 3))
    teachers = {"gram": TeacherView(patches=randn(N, P, D, seed=1))}
    return float(Gram(cfg, D)(StepContext(iteration, batch, view, view, nn.ModuleDict(), teachers)).value)


@pytest.mark.parametrize("tokens", [["gram.img_level=true"], [], ["gram.tokens_used=masked"]])
def test_max_tokens_is_exact_when_it_covers_all(tokens: list[str]) -> None:
    assert loss(*tokens, "gram.max_tokens=36") == loss(*tokens)


@pytest.mark.parametrize("tokens", [["gram.img_level=true"], [], ["gram.tokens_used=masked"]])
def test_the_tokens_drawn_follow_from_seed_and_step(tokens: list[str]) -> None:
    some = [*tokens, "gram.max_tokens=4"]
    values = [loss(*some, iteration=i) for i in range(4)]
    assert values == [loss(*some, iteration=i) for i in range(4)]
    assert len(set(values)) == 4
    assert loss(*some, "train.seed=1") != values[0]


def test_what_happens_to_the_students_negatives_is_a_choice() -> None:
    only = "gram.remove_only_teacher_neg=true"
    official, published = loss(only), loss(only, "gram.remove_only_teacher_neg_rule=published")
    assert published < official, "the pairs both call opposite cost nothing any more"


@pytest.mark.parametrize("tokens", ["all", "masked", "unmasked"])
def test_tokens_are_chosen_in_their_order_and_no_device_is_waited_for(tokens: str) -> None:
    masks = torch.rand(N, P, generator=torch.Generator().manual_seed(2)) < 0.4
    pixels, indices = torch.zeros(N, 1, 1, 1), masks.flatten().nonzero()[:, 0]
    batch = CropBatch(pixels, pixels[:0], masks, indices, torch.ones(len(indices)), masks.sum()[None], len(indices), 2)
    student, teacher = randn(N, P, D, seed=0), randn(N, P, D, seed=1)
    with HostWaits() as waits:
        ours = select(student, teacher, batch, tokens)
    if tokens == "all":
        assert ours[0] is student
        assert ours[1] is teacher
    else:
        chosen = masks if tokens == "masked" else ~masks
        assert torch.equal(ours[0], student[chosen])
        assert torch.equal(ours[1], teacher[chosen])
    assert waits.seen == []
