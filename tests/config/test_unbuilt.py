"""A feature that is not built is refused when it is switched on, and only then."""

from __future__ import annotations

import pytest

from dinov3.config.checks import gram_teacher_has_a_source
from dinov3.config.errors import ConfigError
from dinov3.config.ignored import IGNORED
from dinov3.config.load import load_config
from dinov3.config.names import types_of_keys
from dinov3.config.schema import Config, ScheduleConfig
from dinov3.config.unbuilt import UNBUILT, Unbuilt, feature_of

ON = {bool: ("true", "true"), str: ("/w.pth", "/w.pth"), str | None: ("/w.yaml", "/w.yaml")}


@pytest.mark.parametrize("unbuilt", UNBUILT, ids=lambda u: u.key)
def test_switching_on_what_is_not_built_is_refused(unbuilt: Unbuilt) -> None:
    kind = types_of_keys()[unbuilt.key]
    off = {bool: "false", str: "''", str | None: "null"}[kind]
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"{unbuilt.key}={ON[kind][0]}"])
    expected = f"{ON[kind][1]} asks for {unbuilt.feature}, which is not built yet; set it to {off}"
    assert str(caught.value) == f"command line: {unbuilt.key}: {expected}"
    load_config(None, [f"{unbuilt.key}={off}"])


@pytest.mark.parametrize("unbuilt", UNBUILT, ids=lambda u: u.key)
def test_every_key_an_unbuilt_feature_covers_exists(unbuilt: Unbuilt) -> None:
    for covered in unbuilt.covers:
        assert any(k.startswith(covered) if covered.endswith(".") else k == covered for k in types_of_keys())


def test_only_keys_of_an_unbuilt_feature_are_excused_by_it() -> None:
    feature = next(u for u in UNBUILT if u.covers and u.covers[0].endswith("."))
    assert feature_of(feature.key) == feature.feature
    assert feature_of(feature.covers[0] + "anything") == feature.feature
    assert feature_of("optim.lr") is None
    assert feature_of("train.data") is None


def test_no_ignored_published_key_hides_a_real_one() -> None:
    assert not set(IGNORED) & set(types_of_keys())


def gram_problems(**settings: object) -> list[str]:
    cfg = Config()
    cfg.gram.use_loss = True
    for name, value in settings.items():
        setattr(cfg.gram, name, value)
    return [key for key, _ in gram_teacher_has_a_source(cfg)]


def test_a_gram_teacher_needs_weights_from_somewhere() -> None:
    assert gram_problems() == ["gram.ckpt"]
    assert gram_problems(ema_teacher=True) == []
    assert gram_problems(ckpt="gram.pth") == []
    assert gram_problems(it_load_ema_teacher=0) == []


def test_gram_on_masked_tokens_cannot_go_image_by_image() -> None:
    assert gram_problems(ema_teacher=True, tokens_used="masked", img_level=True) == ["gram.tokens_used"]
    assert gram_problems(ema_teacher=True, tokens_used="masked") == []


def test_a_schedule_is_positional_in_start_peak_end() -> None:
    schedule = ScheduleConfig(1.0, 2.0, 3.0)
    assert (schedule.start, schedule.peak, schedule.end) == (1.0, 2.0, 3.0)
