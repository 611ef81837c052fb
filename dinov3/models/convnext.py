"""ConvNeXt (Liu et al. 2022) with DINOv3's state-dict names and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.derived import CONVNEXT_STRIDE
from dinov3.contracts import Features
from dinov3.models.backbone import Backbone, pick
from dinov3.models.checkpointing import CheckpointedBlock
from dinov3.models.initialization import allocate, init_layers

N_STAGES = 4
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class ConvNHWC(nn.Conv2d):
    """A convolution of [N, H, W, C]: the layout norms and Linear layers want, and no copy for channels-last kernels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvNeXtBlock(CheckpointedBlock):
    """x + gamma * pwconv2(gelu(pwconv1(norm(dwconv(x))))), the branch dropped per sample with ``drop_path``."""

    def __init__(self, dim: int, *, drop_path: float, gamma_init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))
        self.dwconv = ConvNHWC(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.drop_path, self.gamma_init = drop_path, gamma_init

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] to the same shape."""
        scale: Tensor | None = None
        if self.training and self.drop_path:
            keep = 1 - self.drop_path
            scale = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep) / keep
        return self.checkpointed(partial(self._run, scale=scale), x)

    def _run(self, x: Tensor, *, scale: Tensor | None) -> Tensor:
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        return torch.addcmul(x, y, self.gamma if scale is None else self.gamma * scale)


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Every argument of ConvNeXt. Names are DINOv3's."""

    in_chans: int = 3
    depths: Sequence[int] = (3, 3, 9, 3)  # blocks of each stage
    dims: Sequence[int] = (96, 192, 384, 768)  # channels of each stage
    drop_path_rate: float = 0.0  # of the last block, rising linearly from 0 over the blocks (Huang et al. 2016)
    layer_scale_init_value: float = 1e-6  # first value of every gamma
    patch_size: int | None = None  # px; when given, get_intermediate_layers resizes every map to H // p x W // p

    def __post_init__(self) -> None:
        """Raises ValueError unless there are four stages and a rate in [0, 1)."""
        if len(self.depths) != N_STAGES or len(self.dims) != N_STAGES:
            raise ValueError(f"depths {list(self.depths)} and dims {list(self.dims)} must name {N_STAGES} stages")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate {self.drop_path_rate} is not in [0, 1)")


class ConvNeXt(Backbone):
    """Four stages; the class token is the mean of the last stage, the patches are its cells. Masks are ignored.

    Keyword arguments are the fields of ``ConvNeXtConfig``.
    """

    def __init__(self, *, device: torch.device | str | None = None, **settings: Any) -> None:
        super().__init__()
        self.config = cfg = ConvNeXtConfig(**settings)
        dims, n_blocks = cfg.dims, sum(cfg.depths)
        self.in_chans, self.stride, self.patch_size = cfg.in_chans, CONVNEXT_STRIDE, cfg.patch_size
        self.embed_dim, self.embed_dims = dims[-1], tuple(dims)
        self.n_storage_tokens, self.n_blocks = 0, N_STAGES
        rates = iter([cfg.drop_path_rate * i / max(n_blocks - 1, 1) for i in range(n_blocks)])
        with torch.device("meta"):
            stem = nn.Sequential(ConvNHWC(cfg.in_chans, dims[0], kernel_size=4, stride=4), LayerNorm(dims[0]))
            halvings = [
                nn.Sequential(LayerNorm(dims[i]), ConvNHWC(dims[i], dims[i + 1], kernel_size=2, stride=2))
                for i in range(N_STAGES - 1)
            ]
            self.downsample_layers = nn.ModuleList([stem, *halvings])
            block = partial(ConvNeXtBlock, gamma_init=cfg.layer_scale_init_value)
            self.stages = nn.ModuleList(
                nn.Sequential(*(block(dim, drop_path=next(rates)) for _ in range(depth)))
                for depth, dim in zip(cfg.depths, dims, strict=True)
            )
            self.norm = LayerNorm(dims[-1])
            self.norms = nn.ModuleList([*(nn.Identity() for _ in range(N_STAGES - 1)), self.norm])
            self.head = nn.Identity()
        allocate(self, device)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw every weight; ``generator`` lives on the weights' device."""
        init_layers(self, generator)
        for module in self.modules():
            if isinstance(module, ConvNeXtBlock):
                nn.init.constant_(module.gamma, module.gamma_init)

    def encode(
        self, entries: Sequence[Tensor], masks: Sequence[Tensor | None], read: Tensor | None = None
    ) -> list[Features]:
        """Features of every entry; ``prenorm`` is the patches alone, ``storage`` is empty."""
        results = []
        for x in entries:
            cells = self._maps(x)[-1]  # [N, rows, cols, D]
            tokens = cells.flatten(1, 2)  # [N, P, D]
            results.append(
                Features(
                    cls=self.norm(cells.mean((1, 2))),
                    storage=tokens.new_empty(x.shape[0], 0, self.embed_dim),
                    patches=self.norm(tokens),
                    prenorm=tokens,
                    grid=(cells.shape[1], cells.shape[2]),
                )
            )
        return results

    def get_intermediate_layers(
        self,
        x: Tensor,
        *,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        return_extra_tokens: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor | tuple[Tensor, ...], ...]:
        """Maps of the last ``n`` stages, or of those ``n`` lists, with the channels of their stage.

        Per stage as in ``DinoVisionTransformer.get_intermediate_layers``; ``norm`` acts on the last stage only.
        """
        results: list[Tensor | tuple[Tensor, ...]] = []
        maps = self._maps(x)
        for index in self.layer_indices(n):
            cells, cls = maps[index], maps[index].mean((1, 2))  # [N, rows, cols, D], [N, D]
            if self.patch_size is not None:
                size = (x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size)
                resized = F.interpolate(cells.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True)
                cells = resized.permute(0, 2, 3, 1)
            if norm:
                cells, cls = self.norms[index](cells), self.norms[index](cls)
            patches = cells.permute(0, 3, 1, 2).contiguous() if reshape else cells.flatten(1, 2)
            storage = cls.new_empty(x.shape[0], 0, cls.shape[-1])
            results.append(pick(patches, cls, storage, return_class_token, return_extra_tokens))
        return tuple(results)

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Outputs of the four stages, [N, rows, cols, D_stage]."""
        maps, cells = [], x.permute(0, 2, 3, 1).contiguous()
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            cells = stage(downsample(cells))
            maps.append(cells)
        return maps
