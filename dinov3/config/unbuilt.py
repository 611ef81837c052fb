"""What the schema has and this project does not do yet. Switching it on is an error, never a silent nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dinov3.config.convert import as_text
from dinov3.config.errors import KeyProblem


@dataclass(frozen=True)
class Unbuilt:
    """A feature and the key that switches it on, by any value but its default."""

    key: str
    feature: str
    covers: tuple[str, ...] = ()  # other keys that matter only with it; a block ends in a dot


UNBUILT = (
    Unbuilt(
        "hrft.enabled",
        "high-resolution fine-tuning by this block (configs/train/vitl_high_res.yaml does it with other keys)",
        ("hrft.",),
    ),
    Unbuilt("train.data_config", "mixing data sets by a file, as train.dataset_path does by a list of {path, weight}"),
)


def feature_of(key: str) -> str | None:
    """The unbuilt feature that alone gives ``key`` a meaning, None for all other keys."""
    for unbuilt in UNBUILT:
        if (
            key == unbuilt.key
            or key in unbuilt.covers
            or key.startswith(tuple(c for c in unbuilt.covers if c[-1] == "."))
        ):
            return unbuilt.feature
    return None


def refuse_unbuilt(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise KeyProblem for the first feature that is on and unbuilt. Both map keys to typed values."""
    for u in UNBUILT:
        if values[u.key] != defaults[u.key]:
            off = repr(defaults[u.key]) if defaults[u.key] == "" else as_text(defaults[u.key])
            raise KeyProblem(
                u.key, f"{as_text(values[u.key])} asks for {u.feature}, which is not built yet; set it to {off}"
            )
