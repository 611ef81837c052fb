"""The table of what pretraining looks at."""

from __future__ import annotations

from collections.abc import Callable

from dinov3.config.schema import Config
from dinov3.engine.look import Look
from dinov3.eval.online.drift import Drift
from dinov3.eval.online.knn import Knn
from dinov3.eval.online.linear import Linear
from dinov3.eval.online.pictures import Curves, Picture
from dinov3.eval.online.rank import Rank
from dinov3.eval.online.scene import Scene

# In the order of the figures in a row of evaluation.jsonl. Each decides by the config whether it has anything to do.
LOOKS: tuple[Callable[[Config], Look[Scene]], ...] = (Knn, Rank, Linear, Drift, Curves, Picture)


def looks(cfg: Config) -> list[Look[Scene]]:
    """One of each."""
    return [look(cfg) for look in LOOKS]
