"""What goes wrong with features."""

from __future__ import annotations


class FeatureError(Exception):
    """Features cannot be computed, written or read as asked; the text is one line that says what to do."""
