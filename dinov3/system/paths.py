"""Paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """``path`` with a leading ``~`` or ``~name`` replaced by the home folder; as it is when nobody knows that folder.

    ``os.path.expanduser``, not ``Path.expanduser``: the latter raises where there is no home (containers, batch systems).
    """
    return Path(os.path.expanduser(path))
