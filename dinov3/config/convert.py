"""A tree of text, as read from YAML, to checked dataclasses. Errors are KeyProblems."""

from __future__ import annotations

import difflib
import math
import os
import re
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_origin

from dinov3.config.errors import KeyProblem
from dinov3.config.spec import arms_of, block_of, choices_of, default_of, hints, is_optional, spec_of, without_null

T = TypeVar("T")

MAX_SHOWN = 80  # characters of a wrong value in a message
TRUE, FALSE = {"true", "yes", "on"}, {"false", "no", "off"}
NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
NOT_FINITE = re.compile(r"[-+]?\.?(nan|inf|infinity)", re.IGNORECASE)
NOUN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def describe(hint: Any) -> str:
    """The type in words: ``a whole number or null``."""
    inner = without_null(hint)
    if choices := choices_of(inner):
        words = [as_text(c) for c in choices]
        text = words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    elif arms := arms_of(inner):
        text = " or ".join(describe(arm) for arm in arms)
    elif get_origin(inner) is list:
        text = f"a list ({describe(get_args(inner)[0])} each)"
    elif block_of(inner) is not None or get_origin(inner) is dict:
        text = "a block of keys"
    else:
        text = NOUN[inner]
    return f"{text} or null" if is_optional(hint) else text


def as_text(value: Any) -> str:
    """A scalar as YAML writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def convert(value: Any, hint: Any, key: str) -> Any:
    """``value`` as the type ``hint`` wants it.

    ``value`` is text, a list, a dict or None as YAML gave it, or a value that already has its type.
    """
    if value is None and is_optional(hint):
        return None
    if value is None:
        raise KeyProblem(key, f"null is not allowed, it must be {describe(hint)}")
    if value == "???":
        raise KeyProblem(key, f"??? was left in, it must be {describe(hint)}")
    if value == "None" and is_optional(hint):
        raise KeyProblem(key, "None is only a word in YAML, write null")
    inner = without_null(hint)
    if arms := arms_of(inner):
        fitting = [arm for arm in arms if _shape_of(arm) is (type(value) if isinstance(value, list | dict) else None)]
        if not fitting:
            raise _wrong(value, hint, key)
        return convert(value, fitting[0], key)
    block = block_of(inner)
    if block is not None:
        return convert_block(value, block, key)
    if choices := choices_of(inner):
        return _choice(value, choices, key)
    if get_origin(inner) is list:
        if not isinstance(value, list):
            raise _wrong(value, hint, key)
        return [convert(item, get_args(inner)[0], key) for item in value]
    if get_origin(inner) is dict:
        if not isinstance(value, dict):
            raise _wrong(value, hint, key)
        return {name: convert(item, get_args(inner)[1], f"{key}.{name}") for name, item in value.items()}
    return _scalar(value, inner, hint, key)


def _shape_of(hint: Any) -> type | None:
    """What YAML writes a value of this type as: list, dict, or None for a scalar."""
    if block_of(hint) is not None or get_origin(hint) is dict:
        return dict
    return list if get_origin(hint) is list else None


def _shown(value: Any) -> str:
    """A value in an error message."""
    if isinstance(value, dict):
        return "a block of keys"
    text = repr(value) if isinstance(value, str) else as_text(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _wrong(value: Any, hint: Any, key: str) -> KeyProblem:
    return KeyProblem(key, f"{_shown(value)} is not {describe(hint)}")


def _choice(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    text = as_text(value)
    for choice in choices:
        words = (TRUE if choice else FALSE) if isinstance(choice, bool) else {choice}
        if (text.lower() if isinstance(choice, bool) else text) in words:
            return choice
    names = [as_text(c) for c in choices]
    if len(names) == 1:
        raise KeyProblem(key, f"{_shown(value)} is not supported, only {names[0]} is")
    close = difflib.get_close_matches(text, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise KeyProblem(key, f"{_shown(value)} is not one of {', '.join(names)}{hint}")


def _scalar(value: Any, kind: type, hint: Any, key: str) -> Any:
    if isinstance(value, list | dict):
        raise _wrong(value, hint, key)
    if kind is str:
        return value if isinstance(value, str) else as_text(value)
    text = as_text(value).strip()
    if kind is bool:
        if text.lower() in TRUE | FALSE:
            return text.lower() in TRUE
        raise _wrong(value, hint, key)
    if NOT_FINITE.fullmatch(text):
        raise KeyProblem(key, f"{text} is not a finite number")
    if not NUMBER.fullmatch(text):
        raise _wrong(value, hint, key)
    return _number(text, kind, hint, key)


def _number(text: str, kind: type, hint: Any, key: str) -> int | float:
    digits = text.replace("_", "")
    number = float(digits)
    if not math.isfinite(number):
        raise KeyProblem(key, f"{text[:20]} is too large")
    if kind is float:
        return number
    if not number.is_integer():
        raise _wrong(text, hint, key)
    return int(digits) if digits.lstrip("+-").isdigit() else int(number)  # exact above 2**53 too


def convert_block(values: Any, block: type[T], key: str) -> T:
    """``values`` as a ``block``; keys that are not given keep their default. Limits are checked."""
    if not isinstance(values, dict):
        raise _wrong(values, block, key)
    known = {f.name: f for f in fields(block)}  # type: ignore[arg-type]
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in known:
            raise KeyProblem(f"{prefix}{name}", "unknown key")
    result = {}
    for name, f in known.items():
        full, spec = prefix + name, spec_of(f)
        if name in values:
            result[name] = convert(values[name], hints(block)[name], full)
            if spec.path and result[name] is not None:
                result[name] = os.path.expanduser(result[name])
        elif spec.required:
            raise KeyProblem(full, f"is missing, it must be {describe(hints(block)[name])}")
        else:
            result[name] = default_of(f)
        if problem := spec.problem_with(result[name]):
            raise KeyProblem(full, problem)
    return block(**result)
