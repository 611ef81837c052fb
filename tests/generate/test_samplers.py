from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinov3.generate.samplers import METHODS, Method, sample, sample_times, trajectory


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_straight_field_arrives_in_any_number_of_steps(method: Method, steps: int) -> None:
    noise, wanted = torch.randn(2, 2, 3, dtype=torch.float64)
    found = sample(lambda z, t: (z - wanted) / t, noise, steps, method)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_twice_the_steps_divide_the_error_by_the_order(method: Method, order: int) -> None:
    noise = torch.ones(1, 1, dtype=torch.float64)
    exact = math.exp(-1)  # dz/dt = z from t = 1 to 0

    def error(steps: int) -> float:
        return abs(float(sample(lambda z, t: z, noise, steps, method)) - exact)

    assert error(200) / error(400) == pytest.approx(2**order, rel=0.05)


def test_a_sample_keeps_the_format_of_its_noise_and_begins_with_it() -> None:
    noise = torch.randn(2, 4)
    states = list(trajectory(lambda z, t: torch.ones_like(z), noise, sample_times(4)))
    assert len(states) == 5
    assert states[0] is noise
    assert states[-1].dtype == torch.float32
    torch.testing.assert_close(states[-1], noise - 1)


def test_heun_never_asks_at_the_end_and_euler_asks_once_a_step() -> None:
    for method, calls in (("euler", 3), ("heun", 5)):
        asked: list[float] = []

        def field(z: Tensor, t: Tensor, asked: list[float] = asked) -> Tensor:
            asked.append(float(t))
            return z

        sample(field, torch.ones(1), 3, method)  # type: ignore[arg-type]
        assert len(asked) == calls
        assert min(asked) > 0


def test_no_steps_and_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sample_times(0)
    with pytest.raises(ValueError, match="choose euler, heun"):
        sample(lambda z, t: z, torch.ones(1), 1, "rk4")  # type: ignore[arg-type]
