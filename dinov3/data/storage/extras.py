"""Packages that only some sources need, imported when such a source is opened."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dinov3.data.errors import DataError

EXTRAS = {"h5py": "hdf5", "lmdb": "lmdb", "pyarrow": "parquet", "av": "video"}  # package -> our extra that installs it


def need(module: str) -> Any:
    """The imported ``module``. Raises DataError that says what to install."""
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise DataError(f"{package} is not installed: pip install 'dinov3[{EXTRAS[package]}]'") from None
