"""What goes wrong around the diffusion transformer."""

from __future__ import annotations

from dinov3.config.shown import shown
from dinov3.system.errors import Foreseeable


class GenerateError(Foreseeable):
    """Shards, options or conditions cannot be used as given; the text is one line that says what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))  # names inside a shard may hold line breaks
