"""What goes wrong with compression."""

from __future__ import annotations

from dinov3.weights.files import WeightsError


class CompressError(WeightsError):
    """A backbone cannot be compressed as asked; the text is one line that says what to do."""
