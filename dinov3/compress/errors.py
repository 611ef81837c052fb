"""What goes wrong with compression."""

from __future__ import annotations


class CompressError(Exception):
    """A backbone cannot be compressed as asked; the text is one line that says what to do."""
