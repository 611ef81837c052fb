"""What pretraining looks at: a new look is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Callable

from dinov3.config.schema import Config
from dinov3.engine.look import Look
from dinov3.eval.online.scene import Scene
from dinov3.system.tables import read_table

# file.Class, in the order of their figures in a row of evaluation.jsonl.
LOOKS = (
    "knn.Knn",
    "rank.Rank",
    "linear.Linear",
    "dense.Dense",
    "drift.Drift",
    "pictures.Curves",
    "pictures.Picture",
    "neighbours.Neighbours",
)


def looks(cfg: Config) -> list[Look[Scene]]:
    """One of each; whether it has anything to do, each decides by the config."""
    kinds: list[Callable[[Config], Look[Scene]]] = read_table(__name__, LOOKS)
    return [kind(cfg) for kind in kinds]
