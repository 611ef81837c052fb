"""Frames of a video in order, one at a time: a folder of pictures, or a file through PyAV (extra ``video``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.data.decode import Pixels, check_size, decode
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import local_path
from dinov3.data.storage.extras import need
from dinov3.dense.sets import PICTURES

# Suffix -> demuxer. It is named, not guessed from the bytes: a playlist that calls itself .mp4 would open other files.
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
    ".gif": "gif",
}
FOLDER_RATE = 12.0  # frames a second a folder of pictures is shown at
ALMOST = 0.9  # of the frames a file declares: its duration and rate are about right
Bad = tuple[str, str]  # (name, reason) of a frame that cannot be read


class FolderFrames:
    """The pictures of a folder in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
        self.rate = FOLDER_RATE
        if not self.files:
            raise DataError(f"{folder}: no pictures: give a video file or a folder of frames")

    def __iter__(self) -> Iterator[Pixels | Bad]:
        for path in self.files:
            try:
                yield decode(path.read_bytes())
            except (BadImage, OSError) as error:
                yield str(path), str(error)

    def fingerprint(self) -> str:
        """A hash of the files' names, sizes and times of writing."""
        return _digest([f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in self.files])


class FileFrames:
    """The frames of a video file. What cannot be decoded is named and passed over. Raises DataError when it is no video."""

    def __init__(self, path: Path) -> None:
        self.path, self._av = path, need("av")
        with self._opened() as container:
            rate = container.streams.video[0].average_rate
        self.rate = float(rate) if rate else FOLDER_RATE

    def _opened(self) -> Any:
        try:
            # file: a container must not make the program fetch anything
            options = {"protocol_whitelist": "file"}
            container = self._av.open(str(self.path), format=CONTAINERS[self.path.suffix.lower()], options=options)
        except (self._av.error.FFmpegError, OSError) as error:
            raise DataError(f"{self.path}: cannot be opened as a video: {error.strerror or error}") from error
        if not container.streams.video:
            container.close()
            raise DataError(f"{self.path}: has no video stream")
        return container

    def __iter__(self) -> Iterator[Pixels | Bad]:
        number = 0
        with self._opened() as container:
            expected = self._declared(container)
            for packet in container.demux(video=0):
                try:
                    for frame in packet.decode():
                        check_size(frame.width, frame.height)
                        yield np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
                        number += 1
                except (self._av.error.FFmpegError, BadImage) as error:
                    yield f"{self.path} frame {number}", str(error)
                    number += 1
        if number < ALMOST * expected:
            yield str(self.path), f"{number} frames of about {expected:.0f}: the file is cut short or damaged"

    def _declared(self, container: Any) -> float:
        """Frames that the file says it has; 0 when it does not say."""
        if container.duration is None or not container.streams.video[0].average_rate:
            return 0.0
        return float(container.duration / self._av.time_base * container.streams.video[0].average_rate)

    def fingerprint(self) -> str:
        """A hash of the file's name, size and time of writing."""
        facts = self.path.stat()
        return _digest([f"{self.path.name} {facts.st_size} {facts.st_mtime_ns}"])


def open_frames(text: str) -> FolderFrames | FileFrames:
    """Frames of a folder or a video file. Raises DataError."""
    path = local_path(text)
    if path.is_dir():
        return FolderFrames(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder")
    if path.suffix.lower() not in CONTAINERS:
        raise DataError(f"{path}: not one of {', '.join(CONTAINERS)}, nor a folder of pictures")
    return FileFrames(path)


def _digest(lines: list[str]) -> str:
    return f"frames-{hashlib.sha256(chr(10).join(lines).encode(errors='surrogatepass')).hexdigest()[:16]}"
