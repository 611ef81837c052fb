"""The JSON of a check: one record an item, written anew after every one, so that no end of a process loses any."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
# status of a record: ok, fail (it ran, and a number is not what it must be), error, skipped, limit (ended by its limit)


def environment() -> Row:
    """What every record says of the program, without torch and without touching a GPU."""
    return {"card": None, "torch": _version("torch"), "cudnn": None, "git": git_hash(), "source": source_hash()}


def full_environment(device: str) -> Row:
    """``environment`` with the card and cuDNN, as torch sees them."""
    import torch  # late: the parent process does without

    known = environment() | {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        known["card"] = properties.name
        known["card_gib"] = round(properties.total_memory / 2**30, 1)
        known["cudnn"] = torch.backends.cudnn.version()
    else:
        known["card"] = "cpu"
    return known


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_hash() -> str | None:
    """The commit, with ``+`` when files differ from it; None outside a repository."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def source_hash() -> str:
    """Of every Python file of ``dinov3`` and ``benchmarks``: a copy without a repository has it too."""
    total = hashlib.sha256()
    for path in sorted(p for folder in ("dinov3", "benchmarks") for p in (ROOT / folder).rglob("*.py")):
        total.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


class Report:
    """Records in the file ``path``, which this and other processes may have begun and write in turns."""

    def __init__(self, path: Path, known: Row | None = None) -> None:
        self.path, self.known = path, known or environment()

    def begin(self, arguments: Row) -> None:
        """An empty report."""
        self._write({"benchmark": "gpu_check", "arguments": arguments, "records": []})

    def read(self) -> Row:
        content: Row = json.loads(self.path.read_text())
        return content

    def add(self, section: str, item: str, status: str, **figures: Any) -> None:
        """One record more."""
        with self._turn():
            content = self.read()
            content["records"].append({"section": section, "item": item, "status": status, **figures, **self.known})
            self._write(content)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The folder's lock: the file itself is replaced at every writing."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _write(self, content: Row) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with temporary.open("w") as file:
            json.dump(content, file, indent=1, default=str)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


class SectionReport:
    """A ``Report`` as one section sees it: it names items only. A section may be asked how much time is left."""

    def __init__(self, report: Report, letter: str, device: str, seconds: float) -> None:
        self.report, self.letter, self.device = report, letter, device
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that this section should still take."""
        return self._ends - time.monotonic()

    @contextmanager
    def item(self, name: str) -> Iterator[Row]:
        """Fill the row that is given. ``row["passed"]`` decides between ok and fail; whatever is raised is recorded."""
        row: Row = {}
        status, started = "ok", time.perf_counter()
        try:
            yield row
            self._settle()
            status = "ok" if row.get("passed", True) else "fail"
        except Exception as error:  # noqa: BLE001 the point of an item: it fails alone, whatever happens in it
            status = "skipped" if isinstance(error, NotHere) else "error"
            row["error"] = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
            if status == "error":
                row["traceback"] = traceback.format_exc()[-2500:]
        self.report.add(self.letter, name, status, **row, seconds=round(time.perf_counter() - started, 2))

    def _settle(self) -> None:
        """A kernel that failed says so at the next wait: let it be in the item it belongs to."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


def device_of(kind: str) -> torch.device:
    """The device of that kind, with the number that training gives it: ``cuda`` alone is not equal to ``cuda:0``."""
    import torch

    return torch.device("cuda", 0) if kind == "cuda" else torch.device(kind)


class NotHere(Exception):
    """An item that cannot be run on this machine; the text says why."""
