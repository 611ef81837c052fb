"""Fewer bits a weight: bfloat16, or 8-bit integers in the blocks' linear layers."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from dinov3.compress.surgery import blocks_of, rebuilt
from dinov3.models.backbone import Backbone
from dinov3.models.int8 import make_int8
from dinov3.models.vit import DinoVisionTransformer

FORMATS = ("none", "bf16", "weight_only", "dynamic")


def quantized(backbone: Backbone, kind: str) -> Backbone:
    """A copy whose blocks have 8-bit linear layers; ``kind`` as of ``Int8Linear``. CompressError for no such model.

    Patch embedding, norms, tokens and LayerScale stay float32: together a few per cent of the weights.
    """
    small = copy.deepcopy(backbone)
    for block in blocks_of(small):
        make_int8(block, kind)
    assert isinstance(small, DinoVisionTransformer)
    small.config = replace(small.config, int8=kind)
    return small.eval()


@torch.no_grad()
def rounded_to_bf16(backbone: Backbone) -> Backbone:
    """A copy whose parameters have bfloat16's values, in float32 memory: what a file of half the size brings back."""
    small = copy.deepcopy(backbone)
    for parameter in small.parameters():
        parameter.copy_(parameter.bfloat16())
    return rebuilt(small)
