"""Whatever is in the file or in the arguments: a Config, or a ConfigError of one line. Never another exception."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.config.names import types_of_keys
from dinov3.config.schema import Config

WORDS = ["null", "None", "true", "-1", "0", "1e-4", "1e999", "nan", "${optim.lr}", "${a:b}", "???", "abc", "", "[1, 2]"]
KEYS = st.sampled_from([*types_of_keys(), "optim.lrr", "zzz", "student.patch_drop", "coding_rate_loss.epsilon"])
SCALARS = st.sampled_from(WORDS) | st.text(max_size=5) | st.integers() | st.floats() | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["lr", "start", "x", ""]), v, max_size=3),
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def config_or_line(path: Path | None, overrides: list[str]) -> None:
    line = ""
    try:
        assert isinstance(load_config(path, overrides), Config)
    except ConfigError as error:
        line = str(error)
    assert line == "" or line.startswith((str(path), "command line"))
    assert line.isprintable()


@QUICK
@given(text=st.text(max_size=60))
def test_any_text_as_a_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    config_or_line(path, [])


@QUICK
@given(tree=st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_values_under_real_keys(tmp_path: Path, tree: dict[str, object]) -> None:
    nested: dict[str, object] = {}
    for key, value in tree.items():
        block, _, name = key.partition(".")
        inner = nested.setdefault(block, {})
        if name and isinstance(inner, dict):
            inner[name] = value
        else:
            nested[block] = value
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(nested, allow_unicode=True), encoding="utf-8")
    config_or_line(path, [])


@QUICK
@given(key=KEYS, value=st.sampled_from(WORDS) | st.text(max_size=20))
def test_any_argument(key: str, value: str) -> None:
    config_or_line(None, [f"{key}={value}"])


@QUICK
@given(text=st.text(max_size=20))
def test_any_text_as_an_argument(text: str) -> None:
    config_or_line(None, [text])


@pytest.mark.parametrize(
    ("text", "part"), [("[" * 5000, "nested too deeply"), ("a: " + "{b: " * 400, "nested too deeply")]
)
def test_deep_nesting_is_an_error_of_one_line(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value) or "is not YAML" in str(caught.value)


def test_a_dotted_key_in_a_file_says_how_to_write_it(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("optim.lr: 1e-3")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: optim.lr: dots are for the command line; in a file write a block optim"


@pytest.mark.nightly
@pytest.mark.parametrize("key", types_of_keys())
@pytest.mark.parametrize("value", ["[]", "{}", "[a]", "{a: 1}", "1.5", "x"])
def test_every_key_with_a_value_of_every_kind(key: str, value: str) -> None:
    config_or_line(None, [f"{key}={value}"])
