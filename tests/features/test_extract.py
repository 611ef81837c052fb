from __future__ import annotations

import pytest
import torch

from dinov3.data.sources import parse_dataset
from dinov3.features.extract import class_tokens, eval_batch
from dinov3.models.vit import DinoVisionTransformer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def backbone() -> DinoVisionTransformer:
    model = DinoVisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def test_features_do_not_depend_on_the_batch_size_or_order(backbone: DinoVisionTransformer) -> None:
    source = parse_dataset("Synthetic:n=10:size=40")
    every, labels = class_tokens(backbone, source, range(10), size=32, mean=MEAN, std=STD, batch_size=10)
    few, _ = class_tokens(backbone, source, range(10), size=32, mean=MEAN, std=STD, batch_size=3)
    last, label = class_tokens(backbone, source, [9], size=32, mean=MEAN, std=STD)
    torch.testing.assert_close(every, few, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(every[9:], last, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == [source.label(i) for i in range(10)]
    assert label.tolist() == labels[9:].tolist()


def test_the_whole_image_is_seen_and_normalised_once() -> None:
    source = parse_dataset("Synthetic:n=2:size=64")
    batch = eval_batch(source, [0], size=64, mean=MEAN, std=STD)[0]
    pixels = torch.from_numpy(source.read(0)).permute(2, 0, 1).float() / 255
    back = batch * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    torch.testing.assert_close(back, pixels, rtol=0, atol=1e-6)


def test_training_mode_is_refused(backbone: DinoVisionTransformer) -> None:
    source = parse_dataset("Synthetic:n=2:size=40")
    with pytest.raises(ValueError, match="eval mode"):
        class_tokens(backbone.train(), source, [0], size=32, mean=MEAN, std=STD)
