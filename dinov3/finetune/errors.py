"""What a classifier, or what it is to be trained on, raises."""

from __future__ import annotations

from dinov3.system.errors import Foreseeable


class FinetuneError(Foreseeable):
    """One line that names the file or the option, the problem and what to do."""
