"""A segmenter without a decoder: learned queries among the tokens of the ViT's last blocks (Kerssies et al. 2025, EoMT).

Each query says a class, or that it has none, and a mask: the dot product of its embedding with every place of the patch
tokens, which are first upscaled to a quarter of the image's side. Behind a frozen backbone the queries and the backbone's
tokens go through new blocks. Of EoMT, masked attention and the losses of the blocks before the last are left out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.models.attention import KeyBiasMaskedLinear
from dinov3.models.backbone import Backbone
from dinov3.models.block import Block
from dinov3.models.initialization import init_layers
from dinov3.models.norms import RMSNorm
from dinov3.models.packing import pack, unpack
from dinov3.models.vit import DinoVisionTransformer
from dinov3.models.vit_config import VitConfig
from dinov3.segment.mask_loss import mask_loss

QUERY_STD = 1.0  # of new queries, as of nn.Embedding, which EoMT has them in


class Said(NamedTuple):
    """What the queries say of a batch."""

    classes: Tensor  # [N, Q, K + 1] logits, the last of "nothing"
    masks: Tensor  # [N, Q, h, w] logits


class Upscale(nn.Module):
    """``[N, D, h, w]`` to ``[N, D, 2h, 2w]``: a transposed convolution, GELU, a 3x3 one channel by channel, a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.twice = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.smooth = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.smooth(nn.functional.gelu(self.twice(x)))
        normed: Tensor = self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normed


class MaskTransformer(nn.Module):
    """``own_blocks``: the queries see ``blocks`` new ones behind the backbone, else that many of its last."""

    def __init__(self, cfg: VitConfig, classes: int, queries: int, blocks: int, *, own_blocks: bool) -> None:
        super().__init__()
        width = cfg.embed_dim
        self.blocks_seen, self.own_blocks = blocks, own_blocks
        self.queries = nn.Parameter(torch.empty(queries, width))
        plain = replace(cfg, layerscale_init=None, drop_path_rate=0.0, block_shapes=None, int8=None)
        self.extra = nn.ModuleList(Block(plain) for _ in range(blocks if own_blocks else 0))
        self.norm = nn.LayerNorm(width) if own_blocks else nn.Identity()
        self.classes = nn.Linear(width, classes + 1)
        self.embedding = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.upscale = nn.Sequential(*(Upscale(width) for _ in range(max(1, int(math.log2(cfg.patch_size)) - 2))))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """``generator`` lives on the CPU. Blocks begin as a ViT's; the other matrices as torch's own layers do."""
        init_layers(self, generator)
        self.queries.copy_(torch.randn(self.queries.shape, generator=generator) * QUERY_STD)
        for part in (*self.embedding, *self.upscale.modules()):
            if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                fan = part.weight.shape[0] if isinstance(part, nn.ConvTranspose2d) else part.weight[0].numel()
                nn.init.uniform_(part.weight, -1 / math.sqrt(fan), 1 / math.sqrt(fan), generator=generator)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for module in self.extra.modules():
            if isinstance(module, RMSNorm):
                module.init_weights()
            elif isinstance(module, KeyBiasMaskedLinear):
                module.init_mask()

    def forward(self, backbone: Backbone, images: Tensor) -> Said:
        """Of images ``[N, C, H, W]``; ``h`` and ``w`` are a quarter of H and W at patches of 16 px."""
        assert isinstance(backbone, DinoVisionTransformer)
        queries, patches, grid = (
            self._behind(backbone, images)
            if self.own_blocks
            else backbone.encode_with(images, self.queries, self.blocks_seen)
        )
        places = self.upscale(patches.mT.unflatten(2, grid))  # [N, D, h, w]
        masks = torch.einsum("nqd,ndhw->nqhw", self.embedding(queries), places)
        return Said(self.classes(queries), masks)

    def _behind(self, backbone: DinoVisionTransformer, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The queries and the backbone's finished tokens through the new blocks."""
        with torch.no_grad():
            found = cast(Features, backbone(images, is_training=True))
        tokens = torch.cat([found.cls[:, None], found.storage, found.patches], dim=1).float()
        tokens = torch.cat([self.queries.expand(tokens.shape[0], -1, -1), tokens], dim=1)  # [N, Q + 1 + R + P, D]
        n_queries, n_patches = len(self.queries), found.patches.shape[1]
        sizes = ((tokens.shape[0], tokens.shape[1]),)
        with torch.no_grad():
            rotations = [backbone.rope_embed.rotation(*found.grid, tokens.shape[1] - n_patches)]
        x = pack([tokens])
        for block in self.extra:
            x = block(x, sizes, rotations)
        tokens = unpack(self.norm(x), sizes)[0]
        return tokens[:, :n_queries], tokens[:, -n_patches:], found.grid

    def loss(self, backbone: Backbone, images: Tensor, masks: Tensor, ignore: int) -> dict[str, Tensor]:
        """The weighted terms of ``mask_loss``."""
        said = self(backbone, images)
        return mask_loss(said.classes, said.masks, masks, ignore)

    def scores(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Per class ``[N, K, h, w]``: the masks' probabilities, each weighted by its query's of the class."""
        said = self(backbone, images)
        classes = said.classes.float().softmax(-1)[..., :-1]
        return torch.einsum("nqk,nqhw->nkhw", classes, said.masks.float().sigmoid())
