from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dinov3.generate.errors import GenerateError
from dinov3.generate.training.warm_start import load_warm
from dinov3.models.diffusion.transformer import DiffusionTransformer
from tests.models.diffusion.test_transformer import SPEC, asked, known, model


def fresh(**changes: object) -> DiffusionTransformer:
    made = DiffusionTransformer(replace(SPEC, **changes))  # type: ignore[arg-type]
    made.init_weights(torch.Generator().manual_seed(7))
    return made.eval()


def test_old_tensors_are_equal_and_only_those_of_features_are_new() -> None:
    alone, sees = model(replace(SPEC, feature_width=0)), fresh(visual_bias=-2.0)
    report = load_warm(sees, alone.state_dict(), "old")
    assert all(torch.equal(sees.state_dict()[name], tensor) for name, tensor in alone.state_dict().items())
    assert set(report.loaded) == set(alone.state_dict())
    assert all("dino_" in name or name.endswith("visual_bias") for name in report.new)
    assert "new: 10, first" in report.lines()[0]


def test_with_features_shut_out_it_says_what_the_old_model_said() -> None:
    alone, sees = model(replace(SPEC, feature_width=0)), fresh(visual_bias=-float("inf"))
    load_warm(sees, alone.state_dict(), "old")
    assert (asked(alone, known()) - asked(sees, known())).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("remove", "add", "told"),
    [
        ("time_in.weight", None, "1 missing, first time_in.weight"),
        (None, "strange", "1 left over, first strange"),
        ("text_proj.weight", "text_proj.weight", "1 of another shape, first text_proj.weight"),
    ],
)
def test_anything_else_is_refused_before_a_tensor_is_changed_unless_it_is_allowed(
    remove: str | None, add: str | None, told: str
) -> None:
    tensors = dict(model().state_dict())
    if remove is not None:
        del tensors[remove]
    if add is not None:
        tensors[add] = torch.zeros(3)
    sees = fresh()
    before = {name: tensor.clone() for name, tensor in sees.state_dict().items()}
    with pytest.raises(GenerateError, match=told):
        load_warm(sees, tensors, "old")
    assert all(torch.equal(tensor, before[name]) for name, tensor in sees.state_dict().items())
    report = load_warm(sees, tensors, "old", allow=[remove or add or ""])
    assert [remove or add] in (report.new, report.mismatched, report.unexpected)
