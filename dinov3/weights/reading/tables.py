"""The one table of tensors in a checkpoint of whatever program, and the names in it without their wrappers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dinov3.weights.reading.errors import WeightsError, clipped
from dinov3.weights.reading.pickle_records import Name, Record, table_of

# Where programs keep a model among the rest of a checkpoint, the averaged one first (DINO, timm, Lightning, mmengine).
NESTED = (
    *("teacher", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict"),
    *("model_state", "model", "network", "net", "module", "backbone", "encoder", "student"),
)
MAX_NESTING = 3
# Written by wrappers in front of every name.
WRAPPERS = (
    *("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "network.", "net.", "model_ema.", "teacher."),
    *("student.", "encoder.", "dinov3_vit.", "dinov3_convnext."),
)
# Several models in one table: the averaged one is taken.
MODELS = ("model_ema.", "teacher.", "student.")
PARTS = ("backbone.", "dino_head.", "ibot_head.")
SHOWN = 6  # names in a message
V = TypeVar("V")


def find_table(content: Any, is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """The table of tensors in ``content`` (as ``read_pickle`` gives it), taken out of up to three others.

    Raises WeightsError, without the file's name, for what holds none or several.
    """
    for _ in range(MAX_NESTING):
        table = table_of(content)
        if table is None:
            raise WeightsError(_no_table(content))
        inner = {k: t for k, v in table.items() if isinstance(k, str) and (t := table_of(v)) and _holds(t, is_tensor)}
        known = [name for name in NESTED if name in inner]
        if not known and any(is_tensor(v) for v in table.values()):
            return _named(table)
        if not known and len(inner) > 1:
            raise WeightsError(
                f"holds several tables of tensors, {_listed(inner)}: save one of them in a file of its own"
            )
        if not inner:
            raise WeightsError(
                f"holds no table of tensors, but {_listed(table) or 'nothing'}: save the model's state_dict()"
            )
        content = inner[known[0] if known else next(iter(inner))]
    return _named(content)


def _holds(table: dict[Any, Any], is_tensor: Callable[[Any], bool]) -> bool:
    """Are there tensors in it, or in a table that is usual inside it?"""
    inner = [t for name in NESTED if (t := table_of(table.get(name)))]
    return any(is_tensor(v) for v in table.values()) or any(is_tensor(v) for t in inner for v in t.values())


def _named(table: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(name, str) for name in table):
        raise WeightsError("its tensors have no names: save the model's state_dict()")
    return table


def _no_table(content: Any) -> str:
    if isinstance(content, Record) and isinstance(content.kind, Name):
        return f"holds an object of {content.kind}, not a table of tensors: save the model's state_dict()"
    return f"holds a {type(content).__name__}, not a table of tensors: save the model's state_dict()"


def _listed(table: Mapping[Any, Any]) -> str:
    names = [clipped(repr(name) if isinstance(name, str) else name, 60) for name in list(table)[:SHOWN]]
    return ", ".join(names) + (f" and {len(table) - SHOWN} more" if len(table) > SHOWN else "")


def without_wrappers(tensors: Mapping[str, V]) -> dict[str, V]:
    """The model's own names. Wrappers are taken off where every name has them; of several models one is taken."""
    found = dict(tensors)
    while wrapper := next((w for w in WRAPPERS if found and all(name.startswith(w) for name in found)), None):
        found = {name.removeprefix(wrapper): value for name, value in found.items()}
    for model in MODELS:
        if any(name.startswith(f"{model}backbone.") for name in found):
            wanted = tuple(model + part for part in PARTS)
            return {name.removeprefix(model): value for name, value in found.items() if name.startswith(wanted)}
    return found
