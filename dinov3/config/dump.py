"""A Config as YAML text: complete, in the order of the schema, without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import yaml

from dinov3.config.redaction import redacted
from dinov3.config.spec import Spec, block_of, choices_of, hints, spec_of

COMMENT_COLUMN = 44


def to_yaml(cfg: Any, *, comments: bool = False) -> str:
    """``load_config`` of the result equals ``cfg``, but for secrets, which stand as REDACTED.

    ``comments``: meaning, unit and limits beside every key, and blocks that are null as comments.
    """
    return "\n".join(_block(cfg, "", comments)).strip() + "\n"


def to_dict(cfg: Any) -> dict[str, Any]:
    """``cfg`` as nested dicts, without secrets."""
    values: dict[str, Any] = redacted("", asdict(cfg))
    return values


def comment(hint: Any, spec: Spec) -> str:
    """Choices, meaning, unit and limits of a key on one line."""
    choices = " | ".join(choices_of(hint)) if len(choices_of(hint)) > 1 else ""
    notes = [spec.unit, spec.limits(), "does nothing here" if spec.dead else ""]
    if spec.replaced_by:
        notes.append("unused when schedules is given")
    noted = "; ".join(n for n in notes if n)
    return (f"{choices}: " if choices else "") + spec.meaning + (f" ({noted})" if noted else "")


def _plain(value: Any) -> Any:
    """Blocks inside a list as dicts."""
    return (
        [asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for v in value]
        if isinstance(value, list)
        else value
    )


def _scalar(value: Any) -> str:
    """YAML of a value on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").removesuffix("\n")


def _block(block: Any, indent: str, comments: bool) -> Iterator[str]:
    for f in fields(block):
        hint, spec, value = hints(type(block))[f.name], spec_of(f), getattr(block, f.name)
        inner = block_of(hint)
        if inner is not None and not indent:
            yield ""
        if inner is None or value is None:
            line = f"{indent}{f.name}: {_scalar(redacted(f.name, _plain(value)))}"
            yield f"{line:<{COMMENT_COLUMN}}  # {comment(hint, spec)}" if comments else line
            if comments and inner is not None:
                yield from (f"{indent}# {line}" for line in _block(inner(), "  ", comments))
        else:
            yield f"{indent}{f.name}:" + (f"  # {spec.meaning}" if comments else "")
            yield from _block(value, indent + "  ", comments)
