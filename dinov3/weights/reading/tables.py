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
MAX_WRAPPERS = 6  # in front of a name
# Beginnings of names that are the model's own, whoever wraps it: every name of a part of a model may have one.
OWN = {"backbone", "dino_head", "ibot_head", "blocks", "layer", "stages", "embeddings"}
# Several models in one table: the averaged one is taken.
MODELS = ("model_ema.", "teacher.", "student.")
PARTS = ("backbone.", "dino_head.", "ibot_head.")
SHOWN = 6  # names in a message
V = TypeVar("V")


def find_table(content: Any, is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """The table of tensors in ``content`` (as ``read_pickle`` gives it), taken out of up to three others.

    Raises WeightsError, without the file's name, for what holds none or several.
    """
    tables = _Tables(is_tensor)
    for _ in range(MAX_NESTING):
        table = tables.of(content)
        if table is None:
            raise WeightsError(_no_table(content))
        inner = {k: v for k, v in table.items() if isinstance(k, str) and tables.leads_to_tensors(v)}
        known = [name for name in NESTED if name in inner]
        if not known and tables.holds_tensors(content):
            return _named(table)
        if not known and len({id(v) for v in inner.values()}) > 1:
            raise WeightsError(f"holds several tables of tensors, {_listed(inner)}: save one in a file of its own")
        if not inner:
            raise WeightsError(
                f"holds no table of tensors, but {_listed(table) or 'nothing'}: save the model's state_dict()"
            )
        content = inner[known[0] if known else next(iter(inner))]
    return _named(tables.of(content) or {})


class _Tables:
    """What was found out of each table, once: a file may hold the same one under a million names."""

    def __init__(self, is_tensor: Callable[[Any], bool]) -> None:
        self._is_tensor = is_tensor
        self._tables: dict[int, dict[Any, Any] | None] = {}
        self._holds: dict[int, bool] = {}

    def of(self, value: Any) -> dict[Any, Any] | None:
        """The entries of a table, None of anything else."""
        if not isinstance(value, dict | Record):
            return None
        if id(value) not in self._tables:
            self._tables[id(value)] = table_of(value)
        return self._tables[id(value)]

    def holds_tensors(self, value: Any) -> bool:
        """Are there tensors among its entries?"""
        table = self.of(value)
        if table is None:
            return False
        if id(value) not in self._holds:
            self._holds[id(value)] = any(self._is_tensor(v) for v in table.values())
        return self._holds[id(value)]

    def leads_to_tensors(self, value: Any) -> bool:
        """Are there tensors in it, or in a table that is usual inside it?"""
        table = self.of(value) or {}
        return self.holds_tensors(value) or any(self.holds_tensors(table.get(name)) for name in NESTED)


def _named(table: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(name, str) for name in table):
        raise WeightsError("its tensors have no names: save the model's state_dict()")
    return table


def _no_table(content: Any) -> str:
    if isinstance(content, Record) and isinstance(content.kind, Name):
        if content.kind.module == "torch._utils":
            return "holds one tensor, not a table of them: save the model's state_dict()"
        return f"holds an object of {content.kind}, not a table of tensors: save the model's state_dict()"
    return f"holds a {type(content).__name__}, not a table of tensors: save the model's state_dict()"


def _listed(table: Mapping[Any, Any]) -> str:
    names = [clipped(repr(name) if isinstance(name, str) else name, 60) for name in list(table)[:SHOWN]]
    return ", ".join(names) + (f" and {len(table) - SHOWN} more" if len(table) > SHOWN else "")


def without_wrappers(tensors: Mapping[str, V]) -> dict[str, V]:
    """The model's own names. Wrappers are taken off where every name has them; of several models one is taken."""
    found = dict(tensors)
    for _ in range(MAX_WRAPPERS if len(found) > 1 else 0):
        parts = {name.partition(".")[::2] for name in found}
        if len({first for first, _ in parts}) != 1 or not all(rest for _, rest in parts) or parts.pop()[0] in OWN:
            break
        found = {name.partition(".")[2]: value for name, value in found.items()}
    for model in MODELS:
        if any(name.startswith(f"{model}backbone.") for name in found):
            wanted = tuple(model + part for part in PARTS)
            return {name.removeprefix(model): value for name, value in found.items() if name.startswith(wanted)}
    return found
