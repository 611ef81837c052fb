from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dinov3.config.schema import GramConfig
from dinov3.teachers.gram import GramTeacher, resized_patches


def teacher(**settings: object) -> GramTeacher:
    cfg = GramConfig()
    for key, value in settings.items():
        setattr(cfg, key, value)
    return GramTeacher(cfg, nn.ModuleDict(), None)


def updates(steps: int, **settings: object) -> list[int]:
    gram = teacher(**settings)
    return [i for i in range(steps) if gram.updates_after(i)]


def counted(steps: int, frequency: int, first: int, most: int | None) -> list[int]:
    """The rule as it is written in the facts: a counter, step by step."""
    done = []
    for i in range(steps):
        if i + 1 >= first and (i + 1) % frequency == 0 and (most is None or len(done) < most):
            done.append(i)
    return done


@pytest.mark.parametrize("frequency", [1, 2, 5])
@pytest.mark.parametrize("first", [0, 1, 4, 5, 6])
@pytest.mark.parametrize("most", [None, 0, 1, 3])
def test_updates_follow_the_counter_without_keeping_one(frequency: int, first: int, most: int | None) -> None:
    settings = {"update_frequency": frequency, "it_first_update": first, "max_updates": most}
    assert updates(30, **settings) == counted(30, frequency, first, most)


def test_without_repetition_or_with_the_ema_itself_nothing_is_copied() -> None:
    assert updates(10, update_frequency=1, rep_update=False) == []
    assert updates(10, update_frequency=1, ema_teacher=True) == []


def test_the_teacher_is_ready_from_the_step_it_gets_weights() -> None:
    late = teacher(it_load_ema_teacher=3)
    assert [late.ready(i) for i in range(5)] == [False, False, False, True, True]
    assert [late.loads_ema_before(i) for i in range(5)] == [False, False, False, True, False]
    assert teacher(ckpt="x.pth").ready(0)
    assert teacher(ema_teacher=True).ready(0)


def test_patches_keep_their_place_when_resized() -> None:
    rows, cols = torch.meshgrid(torch.arange(6.0), torch.arange(4.0), indexing="ij")
    patches = torch.stack([rows, cols], -1).reshape(1, 24, 2)
    out = resized_patches(patches, (6, 4), (3, 2), GramConfig())
    expected = F.interpolate(torch.stack([rows, cols])[None], size=(3, 2), mode="bicubic", align_corners=False)
    torch.testing.assert_close(out[0], expected[0].flatten(1).T)
    assert (out[0, :, 0].reshape(3, 2).diff(dim=0) > 0).all(), "rows still grow downwards"
    assert resized_patches(patches, (6, 4), (6, 4), GramConfig()) is patches
