from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinov3.models.patch_embed import PatchEmbed, WhitenedStem, _bordered, _quadrants, lasting, whitening
from dinov3.models.vit import DinoVisionTransformer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, height: int, width: int) -> Tensor:
    """Noise whose neighbouring pixels are alike, as those of photographs are."""
    noise = torch.randn(n, 3, height + 4, width + 4, generator=generator(1))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1) * 5


def fitted(patch: int = 8, width: int = 16, filters: int = 8) -> WhitenedStem:
    stem = WhitenedStem(patch, 3, width, filters)
    stem.init_weights(generator())
    stem.fit(images(200, 32, 32), [pair(first) for first in range(0, 40, 8)], generator())
    return stem


def pair(first: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Two crops each of eight images, of which the left half is the same and the right half another one's."""
    there, elsewhere = images(200, size, size)[first : first + 8], images(200, size, size)[100 + first : 108 + first]
    second = there.clone()
    second[..., size // 2 :] = elsewhere[..., size // 2 :]
    return there, second


def test_patch_embedding_is_the_convolution_of_its_weight() -> None:
    embed = PatchEmbed(4, 3, 8)
    embed.init_weights(generator())
    x = images(2, 13, 10)  # 3 x 2 patches, a border left over
    assert torch.allclose(embed(x), embed.proj(x).flatten(2).mT, atol=1e-5)


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_a_whitened_stem_gives_a_token_a_patch_and_sees_no_border(patch: int) -> None:
    stem = fitted(patch)
    x = images(2, 3 * patch + 1, 2 * patch + 1)
    assert stem(x).shape == (2, 6, 16)
    assert torch.equal(stem(x), stem(x[..., : 3 * patch, : 2 * patch]))
    assert stem.cls(stem(x), stem.grid(x)).shape == (2, 1, 16)


def test_rows_are_uncorrelated_after_whitening() -> None:
    rows = (
        torch.randn(500, 6, generator=generator(), dtype=torch.double)
        @ torch.randn(6, 6, generator=generator()).double()
    )
    mean, basis = whitening(rows + 3, 4, least=0.0)
    white = (rows + 3 - mean) @ basis
    torch.testing.assert_close(white.T @ white / len(rows), torch.eye(4, dtype=torch.double))


@pytest.mark.parametrize("filters", [8, 24])
def test_tokens_of_a_fitted_stem_are_uncorrelated_and_class_tokens_centred(filters: int) -> None:
    stem, x = fitted(filters=filters), images(200, 32, 32)
    with torch.no_grad():
        tokens, told = stem(x), stem.cls(stem(x), stem.grid(x))[:, 0]
    assert float((torch.corrcoef(tokens.flatten(0, 1).T) - torch.eye(16)).abs().max()) < 0.01
    assert float(told.mean(0).abs().max()) < 0.01
    assert float(told.std()) == pytest.approx(0.5, rel=0.01)
    drawn = WhitenedStem(8, 3, 16, filters)
    drawn.init_weights(generator())
    with torch.no_grad():
        before = drawn(x).flatten(0, 1)
    assert float((torch.corrcoef(before.T) - torch.eye(16)).abs().max()) > 0.5


def test_class_tokens_keep_what_two_crops_of_an_image_have_in_common() -> None:
    """Here the left half, so that of the four quadrants the two left ones are looked at."""
    looked = fitted().readout.weight.detach().unflatten(1, (4, 16)).square().sum((0, 2))  # at each quadrant
    assert float(looked[[0, 2]].min()) > 5 * float(looked[[1, 3]].max())


def test_the_basis_of_what_lasts_holds_uncorrelated_directions_the_steadiest_first() -> None:
    """Six hidden numbers an image, of which each crop shows a mixture, the later the noisier."""
    hidden = torch.randn(4000, 6, generator=generator(), dtype=torch.double)
    noise = torch.randn(2, 4000, 6, generator=generator(2), dtype=torch.double) * torch.arange(1, 7)
    mixed = torch.randn(6, 6, generator=generator(3)).double()
    first, second = (hidden + noise) @ mixed + 5
    basis = lasting(first, second, 4, least=0.0)
    one, two = (first - first.mean(0)) @ basis, (second - second.mean(0)) @ basis
    across = torch.corrcoef(torch.cat((one, two), dim=1).T)[:4, 4:]
    steady = across.diagonal()
    assert float((across - torch.diag(steady)).abs().max()) < 0.05
    assert steady.tolist() == sorted(steady.tolist(), reverse=True)
    assert float(steady[0]) == pytest.approx(0.5, abs=0.05)
    assert (one.std(0).diff() < 0).all()
    found = torch.linalg.lstsq(hidden, one).solution[:, 0].abs()
    assert int(found.argmax()) == 0, "the first direction is the number without much noise"


def test_a_fit_follows_from_images_and_seed() -> None:
    one, two = fitted(), fitted()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_filters_of_a_whitened_stem_stay_and_all_else_learns() -> None:
    model = DinoVisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, stem="whitened")
    model.init_weights(generator())
    model(images(2, 16, 16)).square().sum().backward()
    frozen = [name for name, p in model.named_parameters() if p.grad is None]
    assert frozen == ["patch_embed.filters.weight", "patch_embed.filters.bias"]
    assert float(model.patch_embed.readout.weight.grad.abs().sum()) > 0  # type: ignore[operator, union-attr]


def test_masked_patches_do_not_reach_the_class_token() -> None:
    model = DinoVisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, stem="whitened").eval()
    model.init_weights(generator())
    x, mask = images(1, 16, 16), torch.tensor([[True, False, False, False]])
    changed = x.clone()
    changed[..., :3, :3] += 1  # seen by the masked patch alone
    seen = [model(picture, masks=mask, is_training=True).cls for picture in (x, changed)]
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 2), (1, 1)])
def test_quadrants_and_borders_are_those_of_torch(grid: tuple[int, int]) -> None:
    patches = torch.randn(2, grid[0] * grid[1], 3, generator=generator())
    pooled = torch.nn.functional.adaptive_avg_pool2d(patches.mT.unflatten(2, grid), 2)  # [N, D, 2, 2]
    torch.testing.assert_close(_quadrants(patches, grid), pooled.permute(0, 2, 3, 1).flatten(1))
    x = images(1, *grid)
    assert torch.equal(_bordered(x), torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"))


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_size 7 and embed_dim 16 even"):
        WhitenedStem(7, 3, 16, 8)
    with pytest.raises(ValueError, match="7 filters of a whitened stem: at least half of embed_dim 16"):
        WhitenedStem(8, 3, 16, 7)
