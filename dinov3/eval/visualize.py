"""Pictures of a run: principal components of patch features, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, MUTED = "#1f2933", "#7b8794"


@torch.inference_mode()
def pca_colours(backbone: nn.Module, images: Tensor) -> Tensor:
    """``token_colours`` of what ``backbone`` makes of ``images [N, C, H, W]``: ``[N, 3, rows, cols]``."""
    out = backbone(images, is_training=True)
    return token_colours(out.patches, out.grid)


def token_colours(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """The first three principal components of patch tokens ``[N, P, D]`` as RGB in [0, 1]: ``[N, 3, rows, cols]``.

    One projection for the whole batch, so a colour means the same thing in every image; each component is scaled to
    its 2nd to 98th percentile.
    """
    flat = patches.float().flatten(0, 1)  # [N*P, D]
    centred = flat - flat.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    scores = centred @ directions[:3].T  # [N*P, 3]
    # a singular vector's sign is arbitrary: make the larger tail positive, so that pictures of two steps compare
    scores = scores * torch.sign((scores**3).sum(0))
    low, high = scores.quantile(0.02, dim=0), scores.quantile(0.98, dim=0)
    colours = ((scores - low) / (high - low).clamp_min(1e-8)).clamp(0, 1)
    return colours.reshape(len(patches), *grid, 3).permute(0, 3, 1, 2)


def pca_sheet(backbone: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float], path: Path) -> None:
    """Write a PNG: one row of images, below it their patch features as colours."""
    colours = pca_colours(backbone, images).cpu()
    size = max(128, images.shape[-1])
    shown = images.cpu() * torch.tensor(std).reshape(1, -1, 1, 1) + torch.tensor(mean).reshape(1, -1, 1, 1)
    rows = [F.interpolate(x, (size, size), mode=m) for x, m in ((shown, "bilinear"), (colours, "nearest"))]
    gap = 6
    canvas = torch.ones(3, 2 * size + gap, len(images) * (size + gap) - gap)
    for r, row in enumerate(rows):
        for i, tile in enumerate(row.clamp(0, 1)):
            canvas[:, r * (size + gap) : r * (size + gap) + size, i * (size + gap) : i * (size + gap) + size] = tile
    Image.fromarray((canvas.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(path)


def curves(rows: Sequence[dict[str, Any]], path: Path, evaluations: Sequence[dict[str, Any]] = ()) -> None:
    """Write a PNG over steps: loss terms, gradient norms, schedules, and from evaluations k-NN accuracy and drift."""
    steps = [r["iteration"] for r in rows]
    losses = [k for k in rows[0] if k.endswith("_loss") and k != "total_loss"]
    norms = [k for k in rows[0] if k.endswith("_grad_norm")]
    panels: list[tuple[str, list[str]]] = [("loss", ["total_loss", *losses]), ("gradient norm before clipping", norms)]
    panels += [("learning rate", ["lr"]), ("teacher: momentum, temperature", ["mom", "teacher_temp"])]
    measured = [[r for r in evaluations if key in r] for key in ("knn_accuracy", "drift_cls_cosine")]
    n_panels = len(panels) + sum(map(bool, measured))
    figure, axes = plt.subplots(1, n_panels, figsize=(4.2 * n_panels, 3.2))
    for axis, (title, keys) in zip(axes, panels, strict=False):
        for key in keys:
            axis.plot(steps, [r.get(key, float("nan")) for r in rows], label=key.replace("_", " "), linewidth=1.4)
        axis.set_title(title, loc="left", fontsize=10, color=INK)
        if len(keys) > 1:
            axis.legend(fontsize=7, frameon=False)
    knn, drifted = measured
    if knn:
        axis = axes[len(panels)]
        axis.plot([k["step"] for k in knn], [100 * k["knn_accuracy"] for k in knn], marker="o", color="#d64545")
        axis.set_title("k-NN accuracy of the EMA backbone, %", loc="left", fontsize=10, color=INK)
    if drifted:
        for key in ("drift_cls_cosine", "drift_cls_cka", "drift_patch_cosine", "drift_patch_cka"):
            label = key.removeprefix("drift_").replace("_", " ").replace("cls", "CLS").replace("cka", "CKA")
            axes[-1].plot(
                [r["step"] for r in drifted], [r[key] for r in drifted], marker="o", markersize=3, label=label
            )
        axes[-1].set_title("likeness to the features at the start", loc="left", fontsize=10, color=INK)
        axes[-1].legend(fontsize=7, frameon=False)
    for axis in axes:
        axis.set_xlabel("step", fontsize=8, color=MUTED)
        axis.tick_params(labelsize=8, colors=MUTED)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
