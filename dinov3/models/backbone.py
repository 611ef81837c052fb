"""What every backbone offers: one call for one stack of images or for several of different sizes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.models import checkpointing
from dinov3.models.execution import Execution, set_execution

Masks = Tensor | Sequence[Tensor | None] | None


class Backbone(nn.Module):
    """Base of the vision transformer and ConvNeXt. Weights are NaN until ``init_weights`` or ``load_state_dict``."""

    embed_dim: int  # D of the output
    in_chans: int  # C of the images
    stride: int  # px along a side that one patch token of the output stands for
    patch_size: int | None  # px of the grid get_intermediate_layers gives; None when a ConvNeXt keeps its own strides
    n_storage_tokens: int
    n_blocks: int  # what get_intermediate_layers counts: blocks, or stages of a ConvNeXt
    head: nn.Module

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patch tokens of images ``[N, C, H, W]``."""
        return images.shape[-2] // self.stride, images.shape[-1] // self.stride

    def encode(
        self, entries: Sequence[Tensor], masks: Sequence[Tensor | None], read: Tensor | None = None
    ) -> list[Features]:
        """Features of each entry [N, C, H, W]; ``read`` as in ``forward``."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor | Sequence[Tensor],
        masks: Masks = None,
        is_training: bool = False,
        read: Tensor | None = None,
    ) -> Tensor | Features | list[Tensor] | list[Features]:
        """Encode one stack of images, or a list of stacks of different sizes in one pass.

        Args:
            x: [N, C, H, W], or a list of such. Sizes are floored to whole patches.
            masks: bool [N, P], True where the patch is replaced by the mask token; None for none. A list for a list.
            read: int64 [M], the patches that are looked at beside the CLS tokens, as indices into the first entry's N*P; a
                vision transformer leaves the other tokens of its last block unfinished. None: all.
            is_training: return ``Features``; otherwise the normed cls token [N, D] through ``head``.

        Returns:
            One result, or a list of as many as ``x`` has entries.
        """
        entries, mask_list = _as_lists(x, masks)
        results = self.encode(entries, mask_list, read)
        if not is_training:
            tokens = [self.head(features.cls) for features in results]
            return tokens[0] if isinstance(x, Tensor) else tokens
        return results[0] if isinstance(x, Tensor) else results

    def forward_features(
        self, x: Tensor | Sequence[Tensor], masks: Masks = None
    ) -> dict[str, Tensor | None] | list[dict[str, Tensor | None]]:
        """The features as a dictionary (or a list of them) under DINOv3's names."""
        entries, mask_list = _as_lists(x, masks)
        dicts: list[dict[str, Tensor | None]] = [
            {
                "x_norm_clstoken": features.cls,  # [N, D]
                "x_storage_tokens": features.storage,  # [N, R, D]
                "x_norm_patchtokens": features.patches,  # [N, P, D]
                "x_prenorm": features.prenorm,  # [N, 1 + R + P, D]
                "masks": mask,
            }
            for features, mask in zip(self.encode(entries, mask_list), mask_list, strict=True)
        ]
        return dicts[0] if isinstance(x, Tensor) else dicts

    def layer_indices(self, n: int | Sequence[int]) -> list[int]:
        """The last ``n`` layers, or those listed, in rising order; ValueError for one that does not exist."""
        wanted = list(range(self.n_blocks - n, self.n_blocks)) if isinstance(n, int) else sorted(set(n))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.n_blocks:
            raise ValueError(f"n={n}: the model has layers 0 to {self.n_blocks - 1}")
        return wanted

    def set_checkpointing(self, mode: checkpointing.CheckpointMode) -> None:
        """Recompute activations in the backward pass: "none", "selective" (what is little work) or "full"."""
        checkpointing.set_mode(self, mode)

    def set_execution(self, execution: Execution) -> None:
        """In which form to compute; a ConvNeXt has only one."""
        set_execution(self, execution)


def pick(
    patches: Tensor, cls: Tensor, storage: Tensor, want_cls: bool, want_storage: bool
) -> Tensor | tuple[Tensor, ...]:
    """One layer's result of get_intermediate_layers: patches alone, or (patches[, cls][, storage])."""
    extra = [token for token, wanted in ((cls, want_cls), (storage, want_storage)) if wanted]
    return (patches, *extra) if extra else patches


def _as_lists(x: Tensor | Sequence[Tensor], masks: Masks) -> tuple[list[Tensor], list[Tensor | None]]:
    entries = [x] if isinstance(x, Tensor) else list(x)
    if masks is None:
        return entries, [None] * len(entries)
    if isinstance(masks, Tensor) != isinstance(x, Tensor):
        raise ValueError("masks must be a tensor for a tensor of images and a list for a list")
    return entries, [masks] if isinstance(masks, Tensor) else list(masks)
