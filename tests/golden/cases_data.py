"""Golden cases of the data: E01 masks, E02 collation.

Left out, because they need the official code's order of draws from the global generators of ``random`` and ``numpy``,
which nothing here draws from: ``exact*/masks`` of E01 and ``last_seed/*`` of E02. What those arrays show beyond chance
(counts, weights, order of indices) is checked on our own masks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from dinov3.data.collate import Sample, collate_data_and_cast
from dinov3.data.masking import MaskingGenerator
from tests.golden.case import Case

LEFT_OUT = "left out: needs the official code's draws from the global random generators"

Masks = NDArray[np.bool_]  # [runs, rows, columns]


def expect(case: Case, holds: bool, failure: str) -> None:
    case.checked += 1
    if not holds:
        case.failures.append(failure)


def neighbour_shares(masks: Masks) -> NDArray[np.float64]:
    """Of the masked patches of each mask, the share whose right neighbour is masked, and below; mean of both."""
    right = (masks[:, :, :-1] & masks[:, :, 1:]).sum((1, 2)) / masks[:, :, :-1].sum((1, 2))
    below = (masks[:, :-1] & masks[:, 1:]).sum((1, 2)) / masks[:, :-1].sum((1, 2))
    return (right + below) / 2


def masking(case: Case) -> None:
    """Two samples of 1500 masks, theirs and ours, must look like draws from the same law."""
    for i in range(len(case.meta["config"]["exact"])):
        print(f"{case.path.name} exact{i}/masks {LEFT_OUT}")
    for i, row in enumerate(case.meta["config"]["stat"]):
        masking_generator = MaskingGenerator((row["h"], row["w"]), **row["kw"])
        runs = range(row["seed0"], row["seed0"] + row["runs"])
        masks = np.stack([masking_generator(row["n"], rng=np.random.default_rng(seed)) for seed in runs])
        case.check(f"stat{i}/count", np.unique(masks.sum((1, 2))))
        shares = neighbour_shares(masks)
        theirs, spread = float(case.arrays[f"stat{i}/neigh_mean"]), float(case.arrays[f"stat{i}/neigh_std"])
        standard_error = spread * np.sqrt(2 / row["runs"])
        z = (shares.mean() - theirs) / standard_error
        expect(case, abs(z) < 4, f"stat{i}/neigh_mean: {shares.mean():.4f}, expected {theirs:.4f}: {z:.1f} sigma")
        ratio = shares.std() / spread  # of two standard deviations: off by more than 10 % is 5 sigma at 1500 runs
        expect(case, 0.9 < ratio < 1.1, f"stat{i}/neigh_std: {shares.std():.4f}, expected {spread:.4f}")
        p = case.arrays[f"stat{i}/pos_mean"].astype(np.float64)
        z_map = (masks.mean(0) - p) / np.sqrt(2 * p * (1 - p) / row["runs"])
        expect(case, np.abs(z_map).max() < 5, f"stat{i}/pos_mean: one patch is {np.abs(z_map).max():.1f} sigma off")
        rms = np.sqrt((z_map**2).mean())  # 1 by chance; neighbouring patches are correlated, so it varies
        expect(case, rms < 1.6, f"stat{i}/pos_mean: patches are {rms:.2f} sigma off on average")


def collation(case: Case) -> None:
    """Counts, upper bound, order and weights, which no seed changes."""
    for i, row in enumerate(case.meta["config"]["cases"]):
        print(f"{case.path.name} {i}/last_seed {LEFT_OUT}")
        for seed in row["seeds"]:
            _check_batch(case, i, seed)


def _sample(image: int, n_local: int) -> Sample:
    crops = {
        "global_crops": [torch.full((3, 2, 2), 10.0 * image + crop) for crop in range(2)],
        "local_crops": [torch.full((3, 1, 1), 100.0 + 10 * image + crop) for crop in range(n_local)],
    }
    return crops, None


def _check_batch(case: Case, i: int, seed: int) -> None:
    row = case.meta["config"]["cases"][i]
    grid, images = row["grid"], row["B"]
    batch = collate_data_and_cast(
        [_sample(image, row["local"]) for image in range(images)],
        mask_ratio_tuple=tuple(row["ratio"]),
        mask_probability=row["p"],
        dtype=torch.float32,
        n_tokens=grid * grid,
        mask_generator=MaskingGenerator((grid, grid), max_num_patches=0.5 * grid * grid),
        random_circular_shift=row.get("shift", False),
        local_batch_size=row.get("local_batch_size"),
        rng=np.random.default_rng(seed),
    )
    masks = batch.collated_masks
    case.check(f"{i}/upperbound", np.int64(batch.upperbound))
    case.check(f"{i}/sorted_counts", masks.sum(1).sort().values)
    case.check(f"{i}/crop_order/global", batch.collated_global_crops[:, 0, 0, 0])
    case.check(f"{i}/crop_order/local", batch.collated_local_crops[:, 0, 0, 0])
    where, weights = [], []
    for crop, mask in enumerate(masks.tolist()):
        where += [crop * grid * grid + patch for patch, hidden in enumerate(mask) if hidden]
        weights += [1 / max(sum(mask), 1)] * sum(mask)
    expect(case, batch.mask_indices_list.tolist() == where, f"{i}: mask_indices_list")
    expect(case, torch.equal(batch.masks_weight, torch.tensor(weights)), f"{i}: masks_weight")
    n_masked = batch.n_masked_patches
    expect(case, n_masked.dtype == torch.int64 and n_masked.tolist() == [batch.upperbound], f"{i}: n_masked_patches")


RUNNERS: dict[str, Callable[[Case], None]] = {"E01": masking, "E02": collation}
