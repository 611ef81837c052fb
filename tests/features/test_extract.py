from __future__ import annotations

import io
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dinov3 import features
from dinov3.data.sources import parse_dataset
from dinov3.features.extract import FeatureExtractor
from dinov3.features.preprocess import Preprocess
from dinov3.features.source_images import class_tokens
from dinov3.features.tokens import Tokens
from dinov3.models.backbone import Backbone
from dinov3.models.convnext import ConvNeXt
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.own import write_backbone

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def backbone() -> DinoVisionTransformer:
    model = DinoVisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, n_storage_tokens=3, pos_embed_rope_dtype="fp32"
    )
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def extractor(backbone: Backbone, size: int | tuple[int, int] | None = None, batch_size: int = 4) -> FeatureExtractor:
    return FeatureExtractor(backbone, Preprocess(MEAN, STD, 8, size), batch_size=batch_size, device="cpu", threads=2)


def pictures(sizes: list[tuple[int, int]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator) for h, w in sizes]


def test_a_ragged_iterable_gives_every_image_what_it_gets_alone_and_keeps_the_order(
    backbone: DinoVisionTransformer,
) -> None:
    images = pictures([(16, 24), (32, 32), (16, 24), (40, 16), (16, 24), (32, 32), (16, 24)])
    together = extractor(backbone, batch_size=2).extract_each(iter(images))
    for image, tokens in zip(images, together, strict=True):
        (alone,) = extractor(backbone, batch_size=1).extract_each(image)
        assert tokens.grid == (image.shape[1] // 8, image.shape[2] // 8)
        for got, wanted in zip(tokens[:3], alone[:3], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def seen(taken: list[Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda image: taken.append(image) or image  # type: ignore[func-returns-value]


def test_at_most_two_batches_are_held_however_the_sizes_come(backbone: DinoVisionTransformer) -> None:
    rare_first = pictures([(48, 48)] + [(16, 16)] * 60)
    all_different = pictures([(8 * (1 + i // 8), 8 * (1 + i % 8)) for i in range(60)])
    run = extractor(backbone, batch_size=4)
    for images in (rare_first, all_different):
        taken: list[Tensor] = []
        given = most = 0
        for (tokens,) in run.stream_prepared(map(run.preprocess, map(seen(taken), images))):
            given += 1
            most = max(most, len(taken) - given)
            assert tokens.grid == tuple(side // 8 for side in images[given - 1].shape[1:])
        assert given == len(images)
        assert most < 8


def test_pooled_features_do_not_keep_the_patches(
    backbone: DinoVisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[np.ndarray]] = []  # type: ignore[type-arg]
    forward = FeatureExtractor._output

    def watched(self: FeatureExtractor, images: Tensor) -> list[Tokens]:
        assert sum(ref() is not None for ref in alive) <= 3
        (tokens,) = forward(self, images)
        array = tokens.patches.numpy().copy()  # lives as long as any slice of the tensor made of it
        alive.append(weakref.ref(array))
        return [tokens._replace(patches=torch.from_numpy(array))]

    monkeypatch.setattr(FeatureExtractor, "_output", watched)
    assert extractor(backbone).extract(pictures([(16, 16)] * 40), pool="cls").shape == (40, 32)
    assert len(alive) == 10


def test_tokens_are_the_backbones_own(backbone: DinoVisionTransformer) -> None:
    (image,) = pictures([(16, 24)])
    tokens = extractor(backbone).extract(image)
    shape = (-1, 1, 1)
    with torch.no_grad():
        own = backbone(
            ((image / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape))[None], is_training=True
        )
    torch.testing.assert_close(tokens.cls, own.cls)
    torch.testing.assert_close(tokens.patches, own.patches)
    assert tokens.storage.shape == (1, 3, 32)
    assert tokens.maps().shape == (1, 32, 2, 3)
    torch.testing.assert_close(tokens.maps()[0, :, 1, 2], tokens.patches[0, 5])


def test_mean_pooling_leaves_out_class_and_storage_tokens(backbone: DinoVisionTransformer) -> None:
    images = pictures([(16, 24), (32, 32)])
    each = extractor(backbone).extract_each(images)
    mean = extractor(backbone).extract(images, pool="mean")
    torch.testing.assert_close(mean, torch.stack([tokens.patches[0].mean(0) for tokens in each]))
    both = extractor(backbone).extract(images, pool="cls+mean")
    torch.testing.assert_close(both, torch.cat([torch.cat([t.cls for t in each]), mean], dim=1))


def test_intermediate_layers_end_with_the_output(backbone: DinoVisionTransformer) -> None:
    images = pictures([(16, 24), (16, 24)])
    first, last = extractor(backbone).extract_layers(images, [0, 1])
    output = extractor(backbone).extract(images)
    torch.testing.assert_close(last[2], output.patches)
    torch.testing.assert_close(last[0], output.cls)
    assert not torch.allclose(first[0], last[0])


def test_intermediate_layers_come_normed_or_as_the_block_left_them_of_images_normalised_here_or_elsewhere(
    backbone: DinoVisionTransformer,
) -> None:
    run, (image,) = extractor(backbone), pictures([(16, 24)])
    ready = run.preprocess(image)[None]
    for norm in (True, False):
        own = backbone.get_intermediate_layers(ready, n=2, return_class_token=True, norm=norm)
        for given, normalised in ((image, False), (ready, True)):
            found = run.extract_layers(given, 2, norm=norm, normalised=normalised)
            for tokens, (patches, cls) in zip(found, own, strict=True):
                torch.testing.assert_close(tokens[2], patches)
                torch.testing.assert_close(tokens[0], cls)


def test_a_compiled_extractor_compiles_intermediate_layers_too(
    backbone: DinoVisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def compiled(function: Callable[..., object]) -> Callable[..., object]:
        name = getattr(function, "__name__", "forward")
        return lambda *args, **kwargs: ran.append(name) or function(*args, **kwargs)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    run = FeatureExtractor(backbone, Preprocess(MEAN, STD, 8), device="cpu", compile=True)
    run.extract(pictures([(16, 24)]))
    run.extract_layers(pictures([(16, 24)]), 1)
    assert ran == ["forward", "get_intermediate_layers"]


def test_patches_of_different_grids_are_not_stacked(backbone: DinoVisionTransformer) -> None:
    with pytest.raises(ValueError, match="extract_each"):
        extractor(backbone).extract(pictures([(16, 24), (32, 32)]))
    assert extractor(backbone, size=16).extract(pictures([(16, 24), (32, 32)])).grid == (2, 2)


def test_no_images_and_training_mode_are_refused(backbone: DinoVisionTransformer) -> None:
    with pytest.raises(ValueError, match="no images"):
        extractor(backbone).extract([])
    backbone.train()
    try:
        with pytest.raises(ValueError, match="eval mode"):
            extractor(backbone).extract(pictures([(16, 16)]))
    finally:
        backbone.eval()


def test_a_probe_can_be_trained_on_the_result(backbone: DinoVisionTransformer) -> None:
    vectors = extractor(backbone).extract(pictures([(16, 16)] * 2), pool="cls")
    probe = torch.nn.Linear(32, 2)
    probe(vectors).sum().backward()
    assert probe.weight.grad is not None


def test_features_do_not_depend_on_the_batch_size_and_carry_labels(backbone: DinoVisionTransformer) -> None:
    source = parse_dataset("Synthetic:n=10:size=40")
    every, labels, kept = class_tokens(extractor(backbone, 32, batch_size=10), source, range(10))
    few, *_ = class_tokens(extractor(backbone, 32, batch_size=3), source, range(10))
    torch.testing.assert_close(every, few, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == [source.label(i) for i in range(10)]
    assert kept == list(range(10))


def test_a_backbone_from_disk_is_fed_with_its_own_statistics(backbone: DinoVisionTransformer, tmp_path: Path) -> None:
    write_backbone(tmp_path, backbone, {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0], "size": 48})
    loaded = features.load(tmp_path, size="train", device="cpu")
    assert loaded.preprocess == Preprocess((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 8, 48)
    photograph = Image.fromarray(np.full((50, 70, 3), 127, np.uint8))
    file = io.BytesIO()
    photograph.save(file, "PNG")
    (tmp_path / "photograph.png").write_bytes(file.getvalue())
    ways = [photograph, file.getvalue(), tmp_path / "photograph.png", np.asarray(photograph)]
    results = [loaded.extract(way, pool="cls") for way in ways]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_the_resizing_can_be_that_of_another_client(backbone: DinoVisionTransformer, tmp_path: Path) -> None:
    write_backbone(tmp_path, backbone, {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 32})
    ways = {way: features.load(tmp_path, size=32, interpolation=way, device="cpu") for way in ("bicubic", "bilinear")}
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    seen = {way: model.preprocess(image) for way, model in ways.items()}
    for way in ways:
        resized = F.interpolate(
            torch.from_numpy(image).permute(2, 0, 1)[None].float(), (32, 32), mode=way, antialias=True
        )
        torch.testing.assert_close(seen[way], (resized[0] / 255 - 0.5) / 0.2, rtol=0, atol=0.03)  # uint8 or float
    assert (seen["bicubic"] - seen["bilinear"]).abs().mean() > 0.03
    assert ways["bicubic"].preprocess.describe() != ways["bilinear"].preprocess.describe(), "other features on disk"


@pytest.mark.parametrize("patch_size", [None, 16])
def test_positions_in_a_convnexts_features_are_positions_in_the_image(patch_size: int | None, tmp_path: Path) -> None:
    model = ConvNeXt(depths=[1, 1, 1, 1], dims=[4, 4, 4, 4], patch_size=patch_size)
    model.init_weights(torch.Generator().manual_seed(0))
    write_backbone(tmp_path, model.eval(), {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 96})
    seen = features.load(tmp_path, device="cpu")
    assert seen.preprocess.target(80, 100) == (96, 96)  # whole cells of 32 px: none of it lies beside the grid
    assert seen.extract(pictures([(80, 100)])).maps().shape == (1, 4, 3, 3)
    with pytest.raises(ValueError, match="size 80: not a multiple of the patch of 32 px: use 64 or 96"):
        features.load(tmp_path, size=80)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta", "xla"])
def test_a_device_that_is_not_there_is_one_clear_error(backbone: DinoVisionTransformer, device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' is not there: use auto or cpu") as caught:
        FeatureExtractor(backbone, Preprocess((0.5,) * 3, (0.5,) * 3, 8), device=device)
    assert len(str(caught.value).splitlines()) == 1
    assert str(FeatureExtractor(backbone, Preprocess((0.5,) * 3, (0.5,) * 3, 8), device="cpu").device) == "cpu"
