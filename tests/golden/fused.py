"""Golden cases with every fused piece on, where the plain ones are the default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from dinov3.losses import passes
from dinov3.models.checkpointing import CheckpointedBlock, CheckpointMode
from dinov3.models.execution import Executed, Execution


@contextmanager
def every_fused_piece(backend: str, mode: CheckpointMode = "selective") -> Iterator[None]:
    """Losses compiled by ``backend``, LayerScale folded, activations recomputed.

    Drop path is not drawn at once: golden numbers with drop path hold for the official code's draws.
    """
    form = passes.compiled(backend)
    with (
        mock.patch("dinov3.objectives.centering.choose", return_value=form),
        mock.patch.object(Executed, "execution", Execution(fused=True, fused_rotation=True, narrow_residual=True)),
        mock.patch.object(CheckpointedBlock, "checkpoint_mode", mode),
    ):
        yield
