from __future__ import annotations

import pytest
import torch

from dinov3.train.ssl_meta_arch import SSLMetaArch
from tests.train.tiny import tiny_config


@pytest.fixture
def model() -> SSLMetaArch:
    return SSLMetaArch(tiny_config())


def initialised(model: SSLMetaArch, seed: int = 0) -> SSLMetaArch:
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def test_before_init_every_value_is_nan_and_after_it_none(model: SSLMetaArch) -> None:
    floats = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    assert all(bool(v.isnan().all()) for v in floats.values())
    initialised(model)
    assert [k for k, v in model.state_dict().items() if not bool(torch.isfinite(v).all())] == []


def test_the_teacher_starts_as_a_copy_of_the_student_that_shares_no_memory(model: SSLMetaArch) -> None:
    initialised(model)
    student = dict(model.student.named_parameters())
    for name, parameter in model.model_ema.named_parameters():
        assert torch.equal(parameter, student[name])
        assert parameter.data_ptr() != student[name].data_ptr()


def test_init_depends_on_the_generator_only(model: SSLMetaArch) -> None:
    torch.manual_seed(1)
    first = {k: v.clone() for k, v in initialised(model, 3).state_dict().items()}
    torch.manual_seed(2)
    assert all(torch.equal(v, first[k]) for k, v in initialised(model, 3).state_dict().items())


def test_the_teacher_stays_in_eval_mode_and_takes_no_gradient(model: SSLMetaArch) -> None:
    model.train()
    assert model.student["backbone"].training
    assert not any(m.training for m in model.model_ema.modules())
    assert not any(p.requires_grad for p in model.model_ema.parameters())


def test_ema_is_the_weighted_mean_of_parameters(model: SSLMetaArch) -> None:
    initialised(model)
    before = {k: v.clone() for k, v in model.model_ema.named_parameters()}
    with torch.no_grad():
        for p in model.student.parameters():
            p.add_(1.0)
    model.update_ema(0.9)
    student = dict(model.student.named_parameters())
    for name, parameter in model.model_ema.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * student[name].detach())


def test_every_trainable_parameter_is_in_exactly_one_group(model: SSLMetaArch) -> None:
    grouped = [id(p) for g in model.get_params_groups() for p in g.params]
    assert sorted(grouped) == sorted(id(p) for p in model.student.parameters())
