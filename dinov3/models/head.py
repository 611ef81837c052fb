"""The projection head of DINO and iBOT: features to prototype logits."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.models.initialization import LINEAR_STD, allocate, init_layers


class DINOHead(nn.Module):
    """MLP to a bottleneck, L2 normalisation, one bias-free Linear to the prototypes (no weight norm, as in DINOv3).

    ``nlayers`` Linear layers with exact GELU between them; with one layer there is no hidden width. Weights are NaN
    until ``init_weights`` or ``load_state_dict``.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        nlayers: int = 3,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        mlp_bias: bool = True,
        last_layer_std: float = LINEAR_STD,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if nlayers < 1:
            raise ValueError(f"head_nlayers {nlayers}: a head has at least one layer")
        self.last_layer_std = last_layer_std
        with torch.device("meta"):
            widths = [in_dim, *[hidden_dim] * (nlayers - 1), bottleneck_dim]
            layers: list[nn.Module] = []
            for fan_in, fan_out in pairwise(widths):
                layers += [nn.Linear(fan_in, fan_out, bias=mlp_bias), nn.GELU()]
            # one layer is stored as mlp.weight, several as mlp.0.weight, mlp.2.weight ...
            self.mlp = layers[0] if nlayers == 1 else nn.Sequential(*layers[:-1])
            self.last_layer = nn.Linear(bottleneck_dim, out_dim, bias=False)
        allocate(self, device)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Truncated normal, std 0.02 (prototypes: ``last_layer_std``), bias 0; ``generator`` lives on the weights' device."""
        init_layers(self, generator)
        with torch.no_grad():
            self.last_layer.weight.mul_(self.last_layer_std / LINEAR_STD)

    def forward(self, x: Tensor, no_last_layer: bool = False, only_last_layer: bool = False) -> Tensor:
        """Features [..., D] to logits [..., K].

        ``no_last_layer`` stops at the normalised bottleneck [..., bottleneck_dim]; ``only_last_layer`` starts there.
        """
        if not only_last_layer:
            x = self.mlp(x)
            x = F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12)  # 1e-12 is 0 in fp16
        return x if no_last_layer else self.last_layer(x)
