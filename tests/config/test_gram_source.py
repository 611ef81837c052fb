from __future__ import annotations

import pytest

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config, to_yaml

ON = "gram.use_loss=true"


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["gram.source=init"], ["gram.it_load_ema_teacher=0", "gram.rep_update=false"]),
        (["gram.source=ema"], ["gram.ema_teacher=true"]),
        (["gram.source=self", "gram.it_load_ema_teacher=100"], ["gram.it_load_ema_teacher=100"]),
        (["gram.source=path", "gram.ckpt=g.pth"], ["gram.ckpt=g.pth"]),
    ],
)
def test_a_word_stands_for_the_official_keys(words: list[str], keys: list[str]) -> None:
    cfg = load_config(None, [ON, *words])
    expected = load_config(None, [ON, *keys])
    cfg.gram.source = None
    assert cfg == expected


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["gram.source=self"], "self needs gram.it_load_ema_teacher: the step at which the EMA is copied"),
        (["gram.source=path"], "path needs gram.ckpt: a run folder or a .pth"),
        (
            ["gram.source=ema", "gram.ckpt=g.pth"],
            "ema, but gram.ckpt is given: set it to null, or gram.source=path",
        ),
        (
            ["gram.source=path", "gram.ckpt=g.pth", "gram.it_load_ema_teacher=5"],
            "path, but gram.it_load_ema_teacher is given: set it to -1, or gram.source=self",
        ),
        (
            ["gram.source=init", "gram.ema_teacher=true"],
            "init, but gram.ema_teacher is given: set it to false, or gram.source=ema",
        ),
        (
            ["gram.source=init", "gram.it_load_ema_teacher=7"],
            "init is the weights before step 0, but gram.it_load_ema_teacher is 7: set it to -1, or gram.source=self",
        ),
    ],
)
def test_what_contradicts_the_word_is_refused_with_the_way_out(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [ON, *words])
    assert str(caught.value) == f"command line: gram.source: {problem}"


@pytest.mark.parametrize("word", ["init", "ema"])
def test_a_resolved_config_can_be_read_again(word: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    cfg = load_config(None, [ON, f"gram.source={word}"])
    path = tmp_path_factory.mktemp("config") / "resolved.yaml"
    path.write_text(to_yaml(cfg))
    assert load_config(path) == cfg
