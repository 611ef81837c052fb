"""The linear head's loss: over all pixels, so that parts of a batch have the loss of the whole as their mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dinov3.dense.windows import resized
from dinov3.segment.pixel import Linear
from tests.finetune.tiny import backbone

IMAGES = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
MASKS = torch.randint(0, 4, (2, 16, 24), generator=torch.Generator().manual_seed(1))


def test_the_loss_is_the_cross_entropy_of_labelled_pixels_over_all_of_them() -> None:
    head, vit = Linear(16, 4, 0.0), backbone()
    head.init_weights(torch.Generator().manual_seed(0))
    masks = MASKS.clone()
    masks[0, :10] = 255
    whole = head.loss(vit, IMAGES, masks, 255)["cross_entropy_loss"]
    logits = resized(head(vit, IMAGES), (16, 24))
    labelled = masks != 255
    each = F.cross_entropy(logits.permute(0, 2, 3, 1)[labelled], masks[labelled], reduction="sum")
    torch.testing.assert_close(whole, each / masks.numel())
    parts = [head.loss(vit, IMAGES[i : i + 1], masks[i : i + 1], 255)["cross_entropy_loss"] for i in (0, 1)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_without_a_label_the_loss_is_0() -> None:
    head, vit = Linear(16, 4, 0.0), backbone()
    head.init_weights(torch.Generator().manual_seed(0))
    found = head.loss(vit, IMAGES, torch.full_like(MASKS, 255), 255)["cross_entropy_loss"]
    assert float(found.detach()) == 0
