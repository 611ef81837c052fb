"""What goes wrong with features."""

from __future__ import annotations

from dinov3.system.errors import Foreseeable


class FeatureError(Foreseeable):
    """Features cannot be computed, written or read as asked; the text is one line that says what to do."""
