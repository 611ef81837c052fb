from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dinov3.dense.video.propagation import Rules, Tracker, one_hot, propagate, scaled, to_grid, to_mask

SETTINGS = [
    Rules("notebook", context=2, radius=2.5, topk=3, temperature=0.2),
    Rules("notebook", context=1, radius=1, shape="square", topk=40, temperature=0.05),
    Rules("notebook", context=3, radius=12, topk=1),
    Rules("dino", context=2, radius=2, shape="square", topk=3, temperature=0.1),
    Rules("dino", context=1, radius=0, topk=5, temperature=0.1),
]


def by_hand(features: torch.Tensor, context: torch.Tensor, probabilities: torch.Tensor, rules: Rules) -> torch.Tensor:
    """One patch after another, as the rules are written down."""
    height, width, _ = features.shape
    found = torch.zeros(height, width, probabilities.shape[-1])
    for y in range(height):
        for x in range(width):
            votes = []
            for t, v, u in np.ndindex(len(context), height, width):
                down, across = abs(y - v), abs(x - u)
                square = rules.variant == "dino" or rules.shape == "square"
                far = max(down, across) if square else math.hypot(down, across)
                if rules.unlimited or far <= rules.radius:
                    votes.append((float(features[y, x] @ context[t, v, u]), probabilities[t, v, u]))
            votes.sort(key=lambda vote: -vote[0])
            votes = votes[: rules.topk]
            weights = torch.tensor([math.exp((s - votes[0][0]) / rules.temperature) for s, _ in votes])
            found[y, x] = (weights[:, None] * torch.stack([p for _, p in votes])).sum(0) / weights.sum()
    return found


def video(frames: int = 4, grid: tuple[int, int] = (5, 6), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(torch.randn(frames, *grid, 8, generator=generator), dim=-1)
    return unit, torch.rand(frames, *grid, 3, generator=generator).softmax(-1)


@pytest.mark.parametrize("rules", SETTINGS)
def test_votes_are_those_of_a_loop_over_patches(rules: Rules) -> None:
    features, probabilities = video()
    found = propagate(features[3], features[:3], probabilities[:3], rules)
    torch.testing.assert_close(
        found, by_hand(features[3], features[:3], probabilities[:3], rules), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rules", SETTINGS)
@pytest.mark.parametrize("block_bytes", [1, 3000, 10**9])
def test_blocks_of_rows_change_nothing(rules: Rules, block_bytes: int) -> None:
    features, probabilities = video()
    whole = propagate(features[3], features[:3], probabilities[:3], rules, block_bytes=10**9)
    parts = propagate(features[3], features[:3], probabilities[:3], rules, block_bytes=block_bytes)
    torch.testing.assert_close(parts, whole)


def test_the_tracker_sees_the_first_frame_and_the_last_ones() -> None:
    features, _ = video(frames=6)
    first = one_hot(torch.randint(0, 3, (5, 6)), 3)
    rules = Rules("notebook", context=2, radius=3, topk=4)
    tracker = Tracker(features[0], first, rules)
    kept = [first]
    for t in range(1, 6):
        seen = [0, *[s for s in (t - 2, t - 1) if s > 0]]
        expected = propagate(features[t], features[seen], torch.stack([kept[s] for s in seen]), rules)
        kept.append(tracker.step(features[t]))
        torch.testing.assert_close(kept[t], expected)


def test_memory_does_not_grow_with_the_video() -> None:
    features, _ = video()
    tracker = Tracker(features[0], one_hot(torch.zeros(5, 6), 2), Rules(context=3, radius=2))
    held = []
    for t in range(12):
        tracker.step(features[t % 4])
        held.append(sum(f.numel() + p.numel() for f, p in [tracker._first, *tracker._last]))
    assert held[2:] == [held[2]] * 10
    alone = Tracker(features[0], one_hot(torch.zeros(5, 6), 2), Rules(context=0, radius=2))
    alone.step(features[1])
    assert not alone._last


def test_a_still_video_keeps_its_labels() -> None:
    still = F.normalize(torch.randn(6, 8, 16), dim=-1)
    labels = torch.zeros(6, 8, dtype=torch.int64)
    labels[2:4, 3:6] = 1
    for rules in (Rules(radius=3, topk=1), Rules("dino", radius=3, topk=1, temperature=0.1)):
        tracker = Tracker(still, one_hot(labels, 2), rules)
        for _ in range(5):
            assert torch.equal(tracker.step(still).argmax(-1), labels)


def test_a_cold_temperature_does_not_overflow() -> None:
    features, probabilities = video()
    cold = Rules("dino", context=3, radius=0, topk=5, temperature=0.001)  # exp(1 / 0.001) is infinite
    found = propagate(features[0], features, probabilities, cold)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, probabilities[0])


@pytest.mark.parametrize("size", [(45, 62), (37, 41), (480, 854), (7, 9)])
def test_the_grid_of_the_script_is_pillows_nearest(size: tuple[int, int]) -> None:
    mask = torch.randint(0, 5, size)
    grid = (max(1, size[0] // 3), max(1, size[1] // 4))
    pillow = Image.fromarray(mask.numpy().astype(np.uint8)).resize(grid[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(to_grid(mask, grid, "dino").numpy(), np.asarray(pillow))
    exact = F.interpolate(mask[None, None].float(), grid, mode="nearest-exact")[0, 0]
    assert torch.equal(to_grid(mask, grid), exact.to(torch.uint8))


def test_a_label_that_fades_is_scaled_and_a_constant_one_is_nothing() -> None:
    maps = torch.stack([torch.full((3, 3), 0.9), torch.linspace(0, 0.1, 9).view(3, 3)])
    found = scaled(maps)
    assert (found[0] == 0).all()
    assert found[1].max() == 1
    assert to_mask(maps.permute(1, 2, 0), (6, 6)).unique().tolist() == [0, 1]


def test_settings_without_a_meaning_and_another_grid_are_refused() -> None:
    for wrong, problem in (
        ({"variant": "x"}, "variant 'x': choose notebook or dino"),
        ({"shape": "hexagon"}, "shape 'hexagon': choose circle or square"),
        ({"topk": 0}, "topk 0: at least 1"),
        ({"temperature": 0.0}, "temperature 0.0: above 0"),
        ({"radius": -1.0}, "radius -1.0: at least 0"),
        ({"context": -1}, "context -1: at least 0"),
    ):
        with pytest.raises(ValueError, match=f"^{problem}$"):
            Rules(**wrong)  # type: ignore[arg-type]
    tracker = Tracker(torch.randn(4, 4, 3), torch.rand(4, 4, 2))
    with pytest.raises(ValueError, match="one grid a video"):
        tracker.step(torch.randn(4, 5, 3))
