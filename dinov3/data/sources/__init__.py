"""Datasets by name: one module each."""

from dinov3.data.errors import DataError
from dinov3.data.sources.mixture import Mixture, open_dataset
from dinov3.data.sources.parse import parse_dataset
from dinov3.data.sources.source import Source

__all__ = ["DataError", "Mixture", "Source", "open_dataset", "parse_dataset"]
