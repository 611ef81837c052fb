"""A teacher's pass that processes share gives each the outputs of a pass over its own batch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dinov3.config.schema import StudentConfig
from dinov3.models.build import build_backbone
from dinov3.models.head import DINOHead
from dinov3.models.token_grid import resample_tokens
from dinov3.teachers import shared
from dinov3.teachers.shared import askers_of, divide, shared_logits
from tests.host_waits import HostWaits

Ranks = tuple[range, ...]


def ranks_of(sizes: list[int], order: list[int] | None = None) -> Ranks:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    ranks = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    return tuple(ranks[i] for i in order) if order else tuple(ranks)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 9), st.randoms(use_true_random=False))
def test_every_image_is_asked_about_once_by_a_process_that_holds_it_and_none_asks_about_more_than_its_share(
    sizes: list[int], blocks: int, random: object
) -> None:
    order = list(range(len(sizes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    ranks, world = ranks_of(sizes, order), sum(sizes)
    whole = blocks * math.lcm(*sizes)
    asked: dict[tuple[int, int], int] = {}  # (process, place among what it asks) -> position in the global batch
    for members in ranks:
        batch = whole // len(members)
        for number in members:
            division = divide(ranks, number, batch)
            assert len(division.asked) == -(-whole // world), "as many as the others, whatever it has to ask about"
            for place, image in enumerate(division.asked[: division.real].tolist()):
                asked[number, place] = (number - members.start) * batch + image
    assert sorted(asked.values()) == list(range(whole))
    for members in ranks:
        batch = whole // len(members)
        for number in members:
            division = divide(ranks, number, batch)
            found = [asked[key] for key in zip(division.owner.tolist(), division.place.tolist(), strict=True)]
            assert found == [(number - members.start) * batch + image for image in range(batch)]
            real = division.asked[: division.real]
            assert division.slot[real].tolist() == list(range(division.real))
            assert int((division.slot == -1).sum()) == batch - division.real


def test_no_process_asks_about_more_than_seven_of_1920_images_on_296_processes() -> None:
    askers = askers_of((range(48), range(48, 96), range(96, 176), range(176, 296)), 1920)
    assert max(askers.count(number) for number in range(296)) == 7


@pytest.fixture(scope="module")
def teacher() -> nn.ModuleDict:
    student = StudentConfig(arch="vit_small", embed_dim=32, depth=1, num_heads=2, patch_size=8)
    generator = torch.Generator().manual_seed(0)
    backbone = build_backbone(student, img_size=32, drop_path=False).to_empty(device="cpu")
    backbone.init_weights(generator)
    heads = {
        name: DINOHead(32, size, hidden_dim=16, bottleneck_dim=8)
        for name, size in (("dino_head", 12), ("ibot_head", 9))
    }
    for head in heads.values():
        head.init_weights(generator)
    return nn.ModuleDict({"backbone": backbone, **heads}).eval().requires_grad_(False)


def gathering(world: int) -> list[Callable[[Tensor], Tensor]]:
    """A gather for each of ``world`` threads."""
    barrier, box = threading.Barrier(world, timeout=300), [torch.empty(0)] * world

    def of(number: int) -> Callable[[Tensor], Tensor]:
        def gather(x: Tensor) -> Tensor:
            box[number] = x
            barrier.wait()
            everything = torch.stack(box)
            barrier.wait()
            return everything

        return gather

    return [of(number) for number in range(world)]


def pictures(whole: int) -> tuple[Tensor, Tensor]:
    """``[2, whole, 3, 32, 32]`` and masks ``[2, whole, 16]``: of very different sizes, some empty."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(2, whole, 16, generator=generator) < torch.rand(2, whole, 1, generator=generator) - 0.3
    return torch.randn(2, whole, 3, 32, 32, generator=generator), masks


def together(
    teacher: nn.ModuleDict, ranks: Ranks, crops: Tensor, masks: dict[int, Tensor], grid: tuple[int, int] = (4, 4)
) -> dict[int, dict[str, Tensor]]:
    """What each process gets; ``masks`` by process."""
    world = sum(map(len, ranks))
    gathers = gathering(world)

    def work(number: int) -> dict[str, Tensor]:
        members = next(m for m in ranks if number in m)
        batch = crops.shape[1] // len(members)
        own = slice((number - members.start) * batch, (number - members.start + 1) * batch)
        indices = masks[number][:, own].flatten().nonzero().squeeze(1)
        division = divide(ranks, number, batch)
        said = shared_logits(teacher, crops[:, own].flatten(0, 1), indices, division, gathers[number], grid)
        cls = said.cls.unflatten(0, (2, -1))
        return {"cls_pre_head": cls, "cls_logits": said.cls_logits, "masked_logits": said.masked_logits}

    with ThreadPoolExecutor(world) as pool:
        return dict(enumerate(pool.map(work, range(world))))


@pytest.mark.parametrize("sizes", [[1], [1, 1], [1, 2], [2, 3, 1]])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("grid", [(4, 4), (2, 2)])
def test_outputs_are_those_of_a_pass_over_the_own_batch(
    teacher: nn.ModuleDict, sizes: list[int], blocks: int, grid: tuple[int, int]
) -> None:
    ranks = ranks_of(sizes)
    whole = math.lcm(*sizes) * blocks
    crops, masks = pictures(whole)
    masks = masks[..., : grid[0] * grid[1]]
    outputs = together(teacher, ranks, crops, dict.fromkeys(range(sum(sizes)), masks), grid)
    for members in ranks:
        batch = whole // len(members)
        for number in members:
            own = slice((number - members.start) * batch, (number - members.start + 1) * batch)
            features = teacher["backbone"](crops[:, own].flatten(0, 1), is_training=True)
            masked = resample_tokens(features.patches, features.grid, grid).flatten(0, 1)[masks[:, own].flatten()]
            expected = {
                "cls_pre_head": features.cls.unflatten(0, (2, -1)),
                "cls_logits": teacher["dino_head"](features.cls).unflatten(0, (2, -1)),
                "masked_logits": teacher["ibot_head"](masked),
            }
            assert outputs[number].keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(outputs[number][name], value, rtol=1e-5, atol=1e-6)


def test_processes_that_hold_other_masks_of_one_image_are_an_error(teacher: nn.ModuleDict) -> None:
    crops, masks = pictures(4)
    other = masks.clone()
    other[0, :2, 0] ^= True  # one that each process asks about: both must see it
    with pytest.raises(RuntimeError, match="different masks of the same images"):
        together(teacher, ranks_of([1, 1]), crops, {0: masks, 1: other})


def test_the_host_waits_once_and_not_for_the_teacher(teacher: nn.ModuleDict, monkeypatch: pytest.MonkeyPatch) -> None:
    crops, masks = pictures(2)
    events: list[str] = []

    class Later(shared.Later):
        def __init__(self, x: Tensor) -> None:
            events.append("counted")
            super().__init__(x)

        def read(self) -> object:
            events.append("read")
            return super().read()

    monkeypatch.setattr(shared, "Later", Later)
    hook = teacher["backbone"].register_forward_hook(lambda *_: events.append("backbone"))
    indices = masks.flatten().nonzero().squeeze(1)
    with HostWaits() as waits:
        shared_logits(teacher, crops.flatten(0, 1), indices, divide((range(1),), 0, 2), lambda x: x[None], (4, 4))
    hook.remove()
    assert waits.seen == []
    assert events == ["counted", "backbone", "read"]
