from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinov3.config.schema import Config
from dinov3.contracts import CropBatch, LossTerm, StepContext, StudentView, TeacherView
from dinov3.distributed.replicate import average_gradients
from dinov3.objectives.da3 import Da3, Da3Projector
from tests.distributed.processes import run_processes

D, D_TEACHER, CROPS, PATCHES = 6, 5, 4, 9
# masked patches of each of the four crops of each process: equal numbers, unequal ones, none on a process
SPLITS = {
    "equal": ((3, 0, 2, 1), (1, 2, 0, 3)),
    "unequal": ((9, 4, 5, 2), (0, 0, 3, 0)),
    "none on one": ((4, 1, 0, 2), (0, 0, 0, 0)),
    "none at all": ((0, 0, 0, 0), (0, 0, 0, 0)),
}
SETTINGS = {"mean": ("masked", "mean"), "per_image": ("masked", "per_image"), "all": ("all", "mean")}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def context(
    patches: Tensor, teacher: Tensor, masks: Tensor, projector: nn.Module, *, loss_on: str = "masked"
) -> StepContext:
    """``patches [N, P, D]``, ``teacher [N, P, D']``, ``masks [N, P]`` as one step sees them."""
    indices = masks.flatten().nonzero().flatten()
    per_crop = masks.sum(1)
    nothing = torch.zeros(len(masks), 3, 2, 2)
    batch = CropBatch(
        collated_global_crops=nothing,
        collated_local_crops=nothing[:0],
        collated_masks=masks,
        mask_indices_list=indices,
        masks_weight=(1 / per_crop.clamp(min=1).float())[indices // masks.shape[1]],
        n_masked_patches=per_crop.sum().reshape(1),
        upperbound=int(per_crop.sum()),
        global_batch_size=len(masks) // 2,
    )
    view = StudentView(patches[:, 0], patches[:, 0], patches, (3, 3), patches.flatten(0, 1).index_select(0, indices))
    flat = teacher.flatten(0, 1)
    tokens = flat if loss_on == "all" else flat.index_select(0, indices)
    return StepContext(
        0, batch, view, view, nn.ModuleDict({"da3_projector": projector}), {"da3": TeacherView(tokens=tokens)}
    )


def masked(counts: tuple[int, ...], seed: int = 0) -> Tensor:
    """Masks ``[N, P]`` with these numbers of patches hidden at random."""
    order = torch.rand(len(counts), PATCHES, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    return order < torch.tensor(counts)[:, None]


def projector() -> Da3Projector:
    made = Da3Projector(D, 8, D_TEACHER)
    made.init_weights(torch.Generator().manual_seed(5))
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(20)  # far from linear
    return made


def objective(loss_on: str = "masked", weighting: str = "mean") -> Da3:
    cfg = Config()
    cfg.da3.loss_on, cfg.da3.weighting = loss_on, weighting  # type: ignore[assignment]
    return Da3(cfg, D, D_TEACHER)


def scene(counts: tuple[int, ...], setting: str, seed: int = 0) -> tuple[LossTerm, Tensor, Da3Projector]:
    """The term of one batch of random tokens, its patches and its projector, after the backward pass."""
    loss_on, weighting = SETTINGS[setting]
    patches, made = drawn(seed, len(counts), PATCHES, D).requires_grad_(), projector()
    teacher = drawn(seed + 100, len(counts), PATCHES, D_TEACHER)
    term = objective(loss_on, weighting)(context(patches, teacher, masked(counts, seed), made, loss_on=loss_on))
    term.value.backward()
    return term, patches, made


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_value_is_the_mean_a_loop_over_images_gives(setting: str) -> None:
    counts = (3, 0, 9, 1)
    term, patches, made = scene(counts, setting)
    masks, teacher = masked(counts), drawn(100, len(counts), PATCHES, D_TEACHER)
    images = []
    for n in range(len(counts)):
        chosen = [p for p in range(PATCHES) if setting == "all" or masks[n, p]]
        costs = []
        for p in chosen:
            a, b = made(patches[n, p]).detach(), teacher[n, p]
            costs.append(1 - float((a @ b) / (a.norm() * b.norm())))
        images.append(costs)
    if setting == "per_image":
        seen = [costs for costs in images if costs]
        expected = sum(sum(costs) / len(costs) for costs in seen) / len(seen)
    else:
        expected = sum(map(sum, images)) / sum(map(len, images))
    assert term.value.item() == pytest.approx(expected, abs=1e-6)
    cosines = 1 - torch.tensor([c for costs in images for c in costs], dtype=torch.float64)
    assert float(term.metrics["da3_cos_mean"]) == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert float(term.metrics["da3_cos_std"]) == pytest.approx(cosines.std(correction=0).item(), abs=1e-6)


def test_the_two_weightings_differ_when_crops_hide_different_numbers() -> None:
    values = {name: scene((3, 0, 9, 1), name)[0].value.item() for name in ("mean", "per_image")}
    assert abs(values["mean"] - values["per_image"]) > 1e-3


Outcome = dict[str, Any]
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], Outcome]]:
    """What each of two processes got, by setting and split."""
    folder = tmp_path_factory.mktemp("ranks")
    run_processes(_one_of_two, (folder,), 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_equal_one_on_the_joined_batch(
    setting: str, split: str, ranks: list[dict[tuple[str, str], Outcome]]
) -> None:
    made, loss_on = projector(), SETTINGS[setting][0]
    patches = torch.cat([drawn(seed, CROPS, PATCHES, D) for seed in (0, 1)]).requires_grad_()
    teacher = torch.cat([drawn(seed + 100, CROPS, PATCHES, D_TEACHER) for seed in (0, 1)])
    masks = torch.cat([masked(counts, seed) for seed, counts in enumerate(SPLITS[split])])
    joined = objective(*SETTINGS[setting])(context(patches, teacher, masks, made, loss_on=loss_on))
    joined.value.backward()
    assert patches.grad is not None
    both = [outcomes[setting, split] for outcomes in ranks]
    torch.testing.assert_close((both[0]["value"] + both[1]["value"]) / 2, joined.value.detach(), **CLOSE)
    for outcome, own in zip(both, patches.grad.split(CROPS), strict=True):
        torch.testing.assert_close(outcome["patches"] / 2, own, **CLOSE)
        for key, p in made.named_parameters():
            torch.testing.assert_close(outcome["projector"][key], p.grad, **CLOSE)
        assert outcome["metrics"].keys() == joined.metrics.keys(), "a mean over processes needs all"
        for key in joined.metrics.keys() - {"da3_mim_loss"}:
            assert outcome["metrics"][key] == pytest.approx(float(joined.metrics[key]), abs=1e-6)


def _one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        out = {}
        for setting, split in itertools.product(SETTINGS, SPLITS):
            term, patches, made = scene(SPLITS[split][rank], setting, seed=rank)
            average_gradients(made.parameters())
            out[setting, split] = {
                "value": term.value.detach(),
                "patches": patches.grad,
                "projector": {key: p.grad for key, p in made.named_parameters()},
                "metrics": {key: float(value) for key, value in term.metrics.items()},
            }
        torch.save(out, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("setting", ["mean", "per_image"])
def test_no_masked_patch_is_zero_with_a_graph(setting: str) -> None:
    term, patches, made = scene((0, 0, 0, 0), setting)
    assert term.value.item() == 0
    assert patches.grad is not None
    assert not patches.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in made.parameters())
    assert all(float(v) == 0 for v in term.metrics.values())


def test_only_directions_count() -> None:
    patches, teacher, masks, made = drawn(0, 4, 9, D), drawn(1, 4, 9, D_TEACHER), masked((3, 0, 9, 1)), projector()
    value = objective()(context(patches, teacher, masks, made)).value
    with torch.no_grad():
        for p in made[2].parameters():
            p.mul_(3)
    torch.testing.assert_close(objective()(context(patches, 7 * teacher, masks, made)).value, value)


def test_the_projector_starts_as_the_other_heads_do() -> None:
    made = Da3Projector(384, 512, 768)
    made.init_weights(torch.Generator().manual_seed(0))
    for layer in (made[0], made[2]):
        assert isinstance(layer, nn.Linear)
        assert 0.018 < layer.weight.std() < 0.022
        assert not layer.bias.any()
    assert made(torch.zeros(2, 384)).shape == (2, 768)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ((4, 9, D_TEACHER + 1), r"DA3 tokens \(13, 6\) and projected student tokens \(13, 5\) differ"),
        ((5, 9, D_TEACHER), r"DA3 tokens \(45, 5\) and projected student tokens \(36, 5\) differ"),
    ],
)
def test_tokens_of_another_width_or_number_are_refused(teacher: tuple[int, ...], message: str) -> None:
    loss_on = "masked" if teacher[0] == 4 else "all"
    step = context(drawn(0, 4, 9, D), drawn(1, *teacher), masked((3, 0, 9, 1)), projector(), loss_on=loss_on)
    with pytest.raises(ValueError, match=message):
        objective(loss_on)(step)
