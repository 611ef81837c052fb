"""Class tokens of a labelled source: whole images, resized, normalised once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.data.decode import read_image
from dinov3.data.sources import Source


def eval_batch(
    source: Source, indices: Sequence[int], *, size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Images ``[N, C, size, size]``, normalised float32; the whole image is resized (antialiased bicubic), never cropped."""
    images = []
    for index in indices:
        pixels = torch.from_numpy(read_image(source, index)).permute(2, 0, 1)[None]  # [1, C, H, W] uint8
        images.append(F.interpolate(pixels, (size, size), mode="bicubic", antialias=True))
    shape = (1, -1, 1, 1)
    batch = torch.cat(images).float() / 255
    return (batch - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)


@torch.inference_mode()
def class_tokens(
    backbone: nn.Module,
    source: Source,
    indices: Sequence[int],
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 128,
) -> tuple[Tensor, Tensor]:
    """Class tokens ``[N, D]`` and labels ``[N]`` of the chosen images, on the CPU; the backbone must be in eval mode."""
    if backbone.training:
        raise ValueError("features are taken in eval mode: call .eval() first")
    device = next(backbone.parameters()).device
    features, labels = [], []
    for start in range(0, len(indices), batch_size):
        chunk = indices[start : start + batch_size]
        images = eval_batch(source, chunk, size=size, mean=mean, std=std).to(device)
        features.append(backbone(images).float().cpu())
        for index in chunk:
            label = source.label(index)
            if label is None:
                raise ValueError(f"{source.name(index)} has no label: k-NN needs a labelled data set")
            labels.append(label)
    return torch.cat(features), torch.tensor(labels)
