"""Secrets are hidden wherever they stand, nothing else is, and hiding twice is hiding once."""

from __future__ import annotations

import string
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.config.dump import to_yaml
from dinov3.config.load import load_config
from dinov3.config.redaction import REDACTED, redacted, without_secrets
from dinov3.config.schema import Config
from dinov3.config.spec import leaves

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    *("token", "hf_token", "HF_TOKEN", "api_key", "apikey", "apiKey", "API-KEY", "client_secret", "clientSecret", "secret"),
    *("db_password", "password", "passwd", "passphrase", "AWS_SECRET_ACCESS_KEY", "aws_access_key_id", "access_key"),
    *("accesskey", "AccountKey", "private_key", "signing-key", "X-Amz-Signature", "X-Amz-Credential", "Signature"),
    *("X-Amz-Security-Token", "X-Goog-Signature", "sig", "SharedAccessSignature", "credentials", "authToken", "pwd"),
    *("DB_PASS", "MISTRAL_KEY", "wandb_key", "PRIVKEY", "basic_auth"),
)  # fmt: skip
SECRETS = st.text(string.ascii_letters + string.digits + "+/_-.~%", min_size=8, max_size=40).map(lambda s: f"S3{s}x")
HARMLESS = (
    *("tokens_used=5", "n_storage_tokens: 4", "keep_every=10", "monkey=abc", "secretly told", "the token of a class"),
    *(
        "/data/hf_images/train",
        "ImageFolder:root=/data/keys:split=train",
        "https://host/a?page=2&size=3",
        "a bearer of x",
        "the bearer instruments",
        "in a second pass: 4 images",
    ),
    *("s3://bucket/sk-learn/files", "/scratch/AKIAN/pictures", "Tar:root=/x/part-{000..128}.tar", "prefix=image-"),
)


@pytest.mark.parametrize("name", [*NAMES, "key"])
def test_a_secret_is_hidden_by_its_name(name: str) -> None:
    assert redacted("x", {name: "abc", "other": "abc"}) == {name: REDACTED, "other": "abc"}
    assert redacted("x", {name: {"deep": ["abc"]}}) == {name: {"deep": [REDACTED]}}
    assert redacted(name, 1234) == REDACTED
    assert redacted(name, "") == ""
    assert redacted(name, None) is None


@pytest.mark.parametrize("name", ["tokens_used", "n_storage_tokens", "keep_every", "monkey", "blur_sigma", "key_bias"])
def test_a_name_that_only_contains_the_word_is_shown(name: str) -> None:
    assert redacted(name, "abc") == "abc"


@pytest.mark.parametrize(
    "form",
    [
        "{name}={secret}",
        "export {name}='{secret}'",
        '{{"{name}": "{secret}", "other": 1}}',
        "{name}: {secret}",
        "HuggingFace:name=a/b:{name}={secret}:split=train",
        "https://host/file.tar?size=3&{name}={secret}&part=2",
        "wandb.{name}={secret}",
        "--{name} {secret} --next 5",
        "--{name}={secret}",
        "DefaultEndpoints=https;{name}={secret};Suffix=core",
        "a: 1\n{name}: two words {secret}\nb: 2",
    ],
)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(secret=SECRETS)
def test_what_stands_under_the_name_of_a_secret_is_hidden_in_every_form(form: str, name: str, secret: str) -> None:
    text = form.format(name=name, secret=secret)
    hidden = without_secrets(text)
    assert secret not in hidden
    assert REDACTED in hidden
    assert without_secrets(hidden) == hidden


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://me:pw@host/a", f"https://{REDACTED}@host/a"),
        ("https://host/a?sig=Ab%2Bc&se=2030", f"https://host/a?sig={REDACTED}&se=2030"),
        ("https://host/a?key=AbcDef", f"https://host/a?key={REDACTED}"),
        ("HuggingFace:name=a/b:token=hf_abc:split=train", f"HuggingFace:name=a/b:token={REDACTED}:split=train"),
        ("HuggingFace:name=a:password=a:b:split=train", f"HuggingFace:name=a:password={REDACTED}:split=train"),
        ("curl -H 'Authorization: Basic dXNlcjpwdw=='", f"curl -H 'Authorization: {REDACTED}"),
        ("Authorization: Bearer abc.def.ghi", f"Authorization: {REDACTED}"),
        ("sent Bearer abc.def.ghi.jkl", f"sent Bearer {REDACTED}"),
        ("sent BEARER  abcdefgh12345", f"sent BEARER  {REDACTED}"),
        ("password := abc", f"password := {REDACTED}"),
        ("'password' => 'abc'", f"'password' => '{REDACTED}'"),
        ("wandb_v1_0123456789abcdefABCDEF", REDACTED),
        ("https://hooks.slack.com/services/T00/B00/abcdef", f"https://hooks.slack.com/services/{REDACTED}"),
        ("hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789", REDACTED),
        ("see ghp_0123456789abcdefghijABCDEFGHIJ012345 there", f"see {REDACTED} there"),
        ("AKIAIOSFODNN7EXAMPLE", REDACTED),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3", REDACTED),
        ("sk-proj-0123456789abcdefghij", REDACTED),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", REDACTED),
    ],
)  # fmt: skip
def test_what_issuers_mark_and_what_urls_hold_is_hidden_wherever_it_stands(text: str, hidden: str) -> None:
    assert without_secrets(text) == hidden
    assert redacted("dataset_path", [text]) == [hidden]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert without_secrets(text) == text


@given(st.text(max_size=200))
def test_hiding_twice_is_hiding_once(text: str) -> None:
    once = without_secrets(text)
    assert without_secrets(once) == once


def test_a_long_text_takes_a_time_that_grows_with_its_length() -> None:
    """Doubled, it takes about twice as long, not four times: measured against itself, so that load does not matter."""
    pieces = (
        "a" * 50,
        "a-_" * 20,
        "token",
        "=" * 40,
        ":" * 40,
        "eyJ" * 20,
        "hf_" * 20,
        "'" * 30,
        "x://" * 10,
        "- " * 20,
    )

    def fastest(text: str) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            without_secrets(text)
            times.append(time.process_time() - began)
        return min(times)

    for piece in pieces:
        short = piece * (4_000 // len(piece))
        assert fastest(short * 4) < 10 * fastest(short) + 0.01, piece


def test_no_default_and_no_shipped_recipe_loses_a_value() -> None:
    assert REDACTED not in to_yaml(Config())
    for leaf in leaves(Config, Config()):
        assert redacted(leaf.name, leaf.default) == (leaf.default if not isinstance(leaf.default, tuple) else None)
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert without_secrets(path.read_text()) == path.read_text()
    assert load_config(ROOT / "configs" / "train" / "photos_vits.yaml")
