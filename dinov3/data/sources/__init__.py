"""Data sets by name, one module each: a new file here, named as it is in ``train.dataset_path``, is a new source.

Begin with ``source.py`` (what a source is) and ``parse.py`` (how a name finds it). Imports ``data/storage``.
"""

from dinov3.data.errors import DataError
from dinov3.data.sources.mixture import Mixture, open_dataset
from dinov3.data.sources.parse import parse_dataset
from dinov3.data.sources.source import Source

__all__ = ["DataError", "Mixture", "Source", "open_dataset", "parse_dataset"]
