"""Self-supervised pretraining as a task of the trainer.

Begin with ``ssl_meta_arch.py`` (student, teachers, objectives in one step), then ``job.py`` (how a run's parts are made).
Nothing but ``launch`` and the command line imports it. The package can be called: ``dinov3.train(...)`` is
``in_python.py: train``.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False  # as in dinov3/__init__.py
if TYPE_CHECKING:
    from typing import Any


class _Callable(ModuleType):
    """``dinov3.train`` is a package for ``python -m``, and a function for Python."""

    def __call__(self, *args: Any, **overrides: Any) -> Any:
        from dinov3.train.in_python import train

        return train(*args, **overrides)


sys.modules[__name__].__class__ = _Callable
