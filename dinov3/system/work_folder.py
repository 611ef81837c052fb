"""A folder beside a file that is to appear: what is made in it is moved out when it is whole."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """``.NAME.PROCESS.RANDOM`` beside ``out``; it is gone when the block ends, and so are those of processes that were killed.

    Missing parents of ``out`` are made, and after an error removed again. An OSError of the block names ``out``, not a
    place that is gone when it is read.
    """
    created = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear_left_overs(out)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}.", dir=out.parent))
    try:
        yield folder
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(out)
        shutil.rmtree(folder, ignore_errors=True)
        for made in created:  # the innermost first
            made.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _clear_left_overs(out: Path) -> None:
    """Remove what processes that were killed had begun; one that is still there keeps its own."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.*"):
        owner = folder.name.removeprefix(f".{out.name}.").partition(".")[0]
        if owner.isdigit() and not _runs(int(owner)):
            shutil.rmtree(folder)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
