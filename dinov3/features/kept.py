"""Where feature sets are kept that nobody named a folder for."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from pathlib import Path

from dinov3.data.storage.index_cache import cache_root
from dinov3.distributed import context
from dinov3.runs.output import check_output_folder

log = logging.getLogger(__name__)


def cache_folder(given: Path | None) -> Path:
    """``given``, or the user's cache; where that cannot be written to, a folder that goes when the program ends.

    Several processes need a folder that all of them see: raises OSError.
    """
    if given is not None:
        return given
    usual = cache_root() / "features"
    try:
        check_output_folder(usual, "--cache")
    except OSError as error:
        if context.world_size() > 1:
            raise
        log.warning("%s; features are not kept", error)
        passing = Path(tempfile.mkdtemp(prefix="dinov3-features-"))
        atexit.register(shutil.rmtree, passing, ignore_errors=True)
        return passing
    return usual
