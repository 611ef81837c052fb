"""Where weights come from and under which terms, as an export carries it on to every export made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dinov3.weights.reading.errors import WeightsError

MAX_ROWS, MAX_TEXT, MAX_RECIPE = 32, 2000, 100_000  # of a table and characters; cards have 10 rows of 200


@dataclass(frozen=True)
class Provenance:
    """What the card of the first export said of the weights' origin."""

    rows: list[tuple[str, str]] = field(default_factory=list)  # "made from", "data", "metrics", "starting weights"
    recipe: str = ""  # YAML: the keys of the training that differ from the defaults

    def as_json(self) -> dict[str, Any]:
        """The opposite of ``provenance_from``."""
        return asdict(self)


NOT_TOLD = Provenance()


@dataclass(frozen=True)
class Facts:
    """What an export says of a backbone beyond its architecture."""

    preprocess: dict[str, Any]  # mean, std, size; value_range when files of more than 8 bits were read by one
    provenance: Provenance = NOT_TOLD


def provenance_from(content: Mapping[str, Any]) -> Provenance:
    """From what ``checked_provenance`` returned."""
    return Provenance([(key, value) for key, value in content["rows"]], content["recipe"])


def checked_provenance(content: Any, source: str) -> dict[str, Any]:
    """As it is; WeightsError unless it is a short table of short texts, for it goes into a model card."""
    rows, recipe = (content.get("rows"), content.get("recipe")) if isinstance(content, Mapping) else (None, None)
    if (
        not isinstance(rows, list)
        or len(rows) > MAX_ROWS
        or not all(isinstance(row, list) and len(row) == 2 and all(_short(part) for part in row) for row in rows)
        or not isinstance(recipe, str)
        or len(recipe) > MAX_RECIPE
    ):
        raise WeightsError(f"{source}: its provenance is not a table of texts")
    return {"rows": rows, "recipe": recipe}


def _short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT
