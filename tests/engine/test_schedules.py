from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.config.schema import Config, ScheduleConfig, SchedulesConfig
from dinov3.engine.schedules import (
    build_schedules,
    constant,
    cosine_schedule,
    linear_warmup_cosine_decay,
    local_loss_weight_schedule,
    loss_weight_schedule,
    lr_scale,
)


def with_blocks() -> Config:
    """10 epochs of 6 steps, 32 images a process."""
    cfg = Config()
    cfg.optim.epochs, cfg.train.OFFICIAL_EPOCH_LENGTH, cfg.train.batch_size_per_gpu = 10, 6, 32
    cfg.schedules = SchedulesConfig(
        lr=ScheduleConfig(0.0, 1e-3, 1e-6, warmup_epochs=2, freeze_last_layer_epochs=1),
        weight_decay=ScheduleConfig(0.04, 0.04, 0.2),
        momentum=ScheduleConfig(0.992, 0.992, 1.0),
        teacher_temp=ScheduleConfig(0.04, 0.07, 0.07, warmup_epochs=3),
    )
    return cfg


def with_optim_keys() -> Config:
    cfg = with_blocks()
    cfg.schedules, cfg.optim.warmup_epochs, cfg.teacher.warmup_teacher_temp_epochs = None, 2, 3
    return cfg


def test_warmup_is_a_line_that_stops_one_step_short_of_the_peak() -> None:
    schedule = linear_warmup_cosine_decay(1.0, 2.0, 0.0, warmup_iterations=4, total_iterations=7)
    np.testing.assert_allclose(schedule.values, [1, 1.25, 1.5, 1.75, 2, 1, 0], atol=1e-15)


def test_after_a_shorter_cosine_the_end_value_holds() -> None:
    schedule = linear_warmup_cosine_decay(0.0, 2.0, 1.0, 1, 6, cosine_iterations=3)
    np.testing.assert_allclose(schedule.values, [0, 2, 1.5, 1, 1, 1], atol=1e-15)


def test_the_older_warmup_reaches_its_peak_and_the_cosine_stops_one_step_short_of_the_end() -> None:
    schedule = cosine_schedule(2.0, 0.0, total_iters=8, warmup_iters=3, start_warmup_value=1.0, freeze_iters=1)
    expected = [0, 1, 1.5, 2, 2, 2 * (1 + math.cos(math.pi / 4)) / 2, 1, 2 * (1 + math.cos(3 * math.pi / 4)) / 2]
    np.testing.assert_allclose(schedule.values, expected)
    assert schedule[8] == 0


@pytest.mark.parametrize("extra", [0.1, 0.25, 1.0])
def test_a_truncated_cosine_ends_on_its_final_value_with_a_slope(extra: float) -> None:
    values = cosine_schedule(2.0, 1.0, total_iters=100, trunc_extra=extra).values
    assert values[0] == 2
    assert values[-1] == pytest.approx(1)
    whole = linear_warmup_cosine_decay(2.0, 2.0, 1.0, 0, 100).values
    assert values[-2] - values[-1] > whole[-2] - whole[-1]


@settings(max_examples=50, deadline=None)
@given(
    start=st.floats(0, 1),
    peak=st.floats(0, 1),
    end=st.floats(0, 1),
    warmup=st.integers(0, 9),
    cosine=st.integers(0, 9),
    rest=st.integers(0, 9),
)
def test_a_schedule_has_one_value_a_step_between_its_extremes(
    start: float, peak: float, end: float, warmup: int, cosine: int, rest: int
) -> None:
    schedule = linear_warmup_cosine_decay(start, peak, end, warmup, warmup + cosine + rest, cosine)
    assert len(schedule.values) == warmup + cosine + rest
    assert schedule.values.dtype == np.float64
    assert schedule[10_000] == end
    slack = 1e-12
    assert all(min(start, peak, end) - slack <= v <= max(start, peak, end) + slack for v in schedule.values)


def test_a_step_before_the_first_is_an_error() -> None:
    with pytest.raises(IndexError, match="step -1"):
        constant(1.0)[-1]


def test_phases_longer_than_the_run_name_the_key() -> None:
    with pytest.raises(ValueError, match="warm-up 8"):
        cosine_schedule(1.0, 0.0, total_iters=7, warmup_iters=8)
    cfg = with_blocks()
    assert cfg.schedules is not None
    cfg.schedules.teacher_temp.warmup_epochs = 11
    with pytest.raises(ValueError, match=r"schedules\.teacher_temp: warm-up 66 \+ cosine -6 steps > total 60"):
        build_schedules(cfg, 1)
    cfg = with_optim_keys()
    cfg.optim.warmup_epochs = 11
    with pytest.raises(ValueError, match=r"optim\.warmup_epochs 11"):
        build_schedules(cfg, 1)


def test_the_scaling_rules() -> None:
    assert lr_scale("linear_wrt_256", 1024) == 4
    assert lr_scale("sqrt_wrt_1024", 1024) == 4
    assert lr_scale("sqrt_wrt_1024", 256) == 2
    assert lr_scale("none", 64) == 1
    with pytest.raises(ValueError, match=r"optim\.scaling_rule 'sqrt': choose from \['linear_wrt_256', 'none', 'sqrt"):
        lr_scale("sqrt", 64)


def test_the_rule_sees_the_images_of_a_whole_optimizer_step() -> None:
    cfg = with_blocks()
    cfg.optim.scaling_rule = "linear_wrt_256"
    cfg.train.gradient_accumulation_steps = 3
    schedules = build_schedules(cfg, world_size=4)
    scale = 32 * 4 * 3 / 256
    assert schedules.lr_scale == scale
    assert schedules.at(12).lr == pytest.approx(1e-3 * scale)
    assert schedules.at(59).lr == pytest.approx(1e-6 * scale)
    assert schedules.at(59).wd == pytest.approx(0.2)  # nothing else is scaled


def test_the_older_keys_scale_only_the_peak() -> None:
    cfg = with_optim_keys()
    cfg.optim.scaling_rule = "linear_wrt_256"
    schedules = build_schedules(cfg, world_size=4)
    assert schedules.at(11).lr == pytest.approx(cfg.optim.lr * 0.5)
    assert schedules.at(999).lr == cfg.optim.min_lr
    assert schedules.at(999).teacher_temp == cfg.teacher.teacher_temp
    assert schedules.at(999).momentum == cfg.teacher.final_momentum_teacher


@pytest.mark.parametrize("cfg", [with_blocks(), with_optim_keys()], ids=["schedules", "optim"])
def test_the_last_layer_stands_still_for_its_epochs_then_follows(cfg: Config) -> None:
    schedules = build_schedules(cfg, 1)
    assert [schedules.at(step).last_layer_lr for step in range(6)] == [0] * 6
    assert all(schedules.at(step).last_layer_lr == schedules.at(step).lr > 0 for step in (6, 30, 59, 60, 10**9))


@pytest.mark.parametrize("cfg", [with_blocks(), with_optim_keys()], ids=["schedules", "optim"])
def test_momentum_rises_from_its_start_to_its_end(cfg: Config) -> None:
    schedules = build_schedules(cfg, 1)
    momentum = [schedules.at(step).momentum for step in range(61)]
    assert momentum[0] == 0.992
    assert momentum[-1] == 1
    assert momentum == sorted(momentum)


def test_fractions_of_an_epoch_are_rounded_to_steps() -> None:
    cfg = with_blocks()
    cfg.train.OFFICIAL_EPOCH_LENGTH = 100
    assert cfg.schedules is not None
    cfg.schedules.lr.warmup_epochs = 0.29  # 0.29 * 100 is 28.999999999999996
    assert build_schedules(cfg, 1).warmup_steps == 29


def test_the_table_states_values_steps_and_samples() -> None:
    cfg = with_blocks()
    cfg.optim.scaling_rule = "none"
    lines = build_schedules(cfg, 8).table(256, until=60).splitlines()
    assert lines[1].split() == ["lr", "0", "0.001", "1e-06"]
    assert lines[3].split() == ["weight_decay", "0.04", "0.2", "0.2"]
    assert lines[-2:] == [
        "lr is scaled by 1 and warms up for 12 steps",
        "60 steps of 256 images: 15360 samples; one of optim.epochs is 6 steps",
    ]


def test_the_table_of_a_shortened_run_states_both_lengths() -> None:
    lines = build_schedules(with_blocks(), 8).table(256, until=25).splitlines()
    assert lines[-2:] == [
        "25 steps of 256 images: 6400 samples; one of optim.epochs is 6 steps",
        "train.max_steps ends the run there; the schedules above are those of 60 steps",
    ]


def test_loss_weights_are_constant_without_a_schedule() -> None:
    cfg = with_blocks()
    cfg.gram.loss_weight = 2.5
    assert [loss_weight_schedule(cfg)[step] for step in (0, 10**6)] == [2.5, 2.5]
    assert local_loss_weight_schedule(cfg)[7] == 1  # 0.5 in its schedule, which is off


def test_loss_weights_follow_their_schedule() -> None:
    """The official numbers of two runs of 5 epochs of 2 steps."""
    cfg = Config()
    cfg.optim.epochs, cfg.train.OFFICIAL_EPOCH_LENGTH = 5, 2
    cfg.gram.loss_weight_schedule = ScheduleConfig(0.0, 1.0, 2.0, warmup_epochs=1)
    cfg.dino.reweight_dino_local_loss = True
    cfg.dino.local_loss_weight_schedule = ScheduleConfig(1.0, 1.0, 0.5, warmup_epochs=1, cosine_epochs=3)
    gram, local = loss_weight_schedule(cfg), local_loss_weight_schedule(cfg)
    assert [gram[step] for step in range(5)] == pytest.approx([0, 0.5, 1, 1.0495156, 1.1882551])
    assert [local[step] for step in range(5)] == pytest.approx([1, 1, 1, 0.95225424, 0.82725424])
    assert [gram[10**6], local[7], local[10**6]] == [2, 0.5, 0.5]


def test_a_warm_up_that_leaves_little_to_learn_in_is_said_unless_the_run_is_only_tried() -> None:
    cfg = with_blocks()
    assert cfg.schedules is not None
    cfg.schedules.lr.warmup_epochs = 4.0  # of 10
    said = "the learning rate rises for 24 of 60 steps: lower optim.warmup_epochs for so short a run"
    assert said in build_schedules(cfg, 8).table(256, until=60).splitlines()
    assert said not in build_schedules(cfg, 8).table(256, until=30)
