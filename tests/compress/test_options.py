from __future__ import annotations

import pytest

from dinov3.compress.costs import Costs
from dinov3.compress.errors import CompressError
from dinov3.compress.methods import Settings, Step
from dinov3.compress.options import amounts_of, methods_of, steps_of
from tests.compress.models import vit

SETTINGS = Settings(Costs("parameters", 18, 32))


def test_long_names_are_the_short_ones() -> None:
    assert methods_of("attention_heads, mlp_neurons,truncated_svd") == ["heads", "mlp", "svd"]
    assert amounts_of("attention_heads=0.89,mlp=0.975,svd=0.9", ["heads", "mlp", "svd"]) == {
        "heads": 0.89,
        "mlp": 0.975,
        "svd": 0.9,
    }
    assert methods_of("none") == []


def test_one_amount_is_for_all_and_a_named_one_goes_before() -> None:
    assert amounts_of("0.9", ["heads", "mlp"]) == {"heads": 0.9, "mlp": 0.9}
    assert amounts_of("0.9,mlp=0.5", ["heads", "mlp"]) == {"heads": 0.9, "mlp": 0.5}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x", "not a number"),
        ("heads=0", "above 0 and at most 1"),
        ("1.5", "above 0 and at most 1"),
        ("nan", "above 0 and at most 1"),
        ("svd=0.5", "svd is not among"),
        ("heads=0.5,heads=0.6", "twice"),
        ("heads=0.5", "says nothing of mlp"),
    ],
)
def test_wrong_amounts_are_refused_in_one_line(text: str, error: str) -> None:
    with pytest.raises(CompressError, match=error):
        amounts_of(text, ["heads", "mlp"])


def test_wrong_methods_and_orders_are_refused() -> None:
    with pytest.raises(CompressError, match="--method 'magnitude': choose from"):
        methods_of("magnitude")
    with pytest.raises(CompressError, match="come last"):
        methods_of("svd,heads")


def test_steps_need_an_amount_or_a_budget() -> None:
    model = vit()
    assert steps_of(model, ["heads"], "0.9", None, SETTINGS) == [Step("heads", 0.9)]
    assert steps_of(model, ["whitened"], None, 0.7, SETTINGS) == [Step("whitened", 0.7)]
    assert steps_of(model, ["mlp"], None, 0.8, SETTINGS)[0].amount < 1
    for amount, budget in ((None, None), ("0.9", 0.7)):
        with pytest.raises(CompressError, match="one of them"):
            steps_of(model, ["heads"], amount, budget, SETTINGS)
    with pytest.raises(CompressError, match="above 0 and at most 1"):
        steps_of(model, ["heads"], None, 1.2, SETTINGS)
    with pytest.raises(CompressError, match="mixes"):
        steps_of(model, ["heads", "whitened"], None, 0.7, SETTINGS)
    with pytest.raises(CompressError, match="takes neither"):
        steps_of(model, [], "0.9", None, SETTINGS)
