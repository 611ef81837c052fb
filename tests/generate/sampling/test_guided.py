from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinov3.generate.samplers import METHODS, sample
from dinov3.generate.sampling.guided import MODES, Recipe, field_of, latents_from, noise_of
from tests.models.diffusion.test_transformer import B, known, model, noise

SIZE = (4, 8)


def velocity(recipe: Recipe) -> Tensor:
    with torch.no_grad():
        return field_of(model(), known(), recipe)(noise(B, 4, *SIZE), torch.tensor(0.4))


def branch(without_text: bool, without_features: bool) -> Tensor:
    conditions = known()._replace(
        without_text=torch.full((B,), without_text), without_features=torch.full((B,), without_features)
    )
    with torch.no_grad():
        return model()(noise(B, 4, *SIZE), torch.full((B,), 0.4), conditions)


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() < 1e-5)


def test_branches_in_one_forward_are_those_asked_for_one_by_one() -> None:
    none, text, dino, full = (branch(*drops) for drops in ((True, True), (False, True), (True, False), (False, False)))
    assert near(velocity(Recipe(mode="full")), full)
    assert near(velocity(Recipe(mode="independent")), none + 3 * (text - none) + 2 * (dino - none))
    assert near(velocity(Recipe(mode="chained")), none + 2 * (dino - none) + 3 * (full - dino))


def test_scales_of_one_and_zero_are_the_branches_themselves() -> None:
    assert near(velocity(Recipe(mode="chained", text_scale=1, dino_scale=1)), branch(False, False))
    assert near(velocity(Recipe(mode="independent", text_scale=1, dino_scale=0)), branch(False, True))
    assert near(velocity(Recipe(mode="independent", text_scale=0, dino_scale=0)), branch(True, True))


def test_with_scales_of_zero_the_conditions_do_not_matter_at_all() -> None:
    recipe = Recipe(3, text_scale=0, dino_scale=0)
    usual, other = (latents_from(model(), known(seed=s), [0, 1, 2], SIZE, recipe) for s in (0, 40))
    assert torch.equal(usual, other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_an_image_depends_on_its_seed_and_not_on_the_others(mode: str, method: str) -> None:
    recipe = Recipe(3, method, mode)  # type: ignore[arg-type]
    together = latents_from(model(), known(), [5, 6, 7], SIZE, recipe)
    alone = latents_from(model(), known().each(lambda rows: rows[1:2]), [6], SIZE, recipe)
    torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-4)
    assert torch.equal(noise_of([5, 6], (2, 3))[1], noise_of([6], (2, 3))[0])
    assert not torch.equal(*noise_of([5, 6], (2, 3)))


def test_the_shift_of_training_moves_the_times_of_sampling() -> None:
    plain, shifted = (latents_from(model(), known(), [0, 1, 2], SIZE, Recipe(3, shift_base=b)) for b in (None, 8.0))
    assert not torch.allclose(plain, shifted)
    own = sample(field_of(model(), known(), Recipe(3)), noise_of([0, 1, 2], (4, *SIZE)), 3).detach()
    torch.testing.assert_close(plain, own)


def test_what_does_not_exist_is_said() -> None:
    with pytest.raises(ValueError, match="choose independent, chained, full"):
        Recipe(mode="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose euler, heun"):
        Recipe(method="rk4")  # type: ignore[arg-type]
