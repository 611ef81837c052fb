"""``RUN/tensorboard``: curves and pictures for `tensorboard --logdir RUN`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dinov3.runs.sinks.sink import Row, numbers


class TensorBoardSink:
    """Scalars ``train/*`` and ``evaluation/*`` by step, and pictures. The writer has a thread of its own."""

    def __init__(self, out: Path, resume_at: int, config: str) -> None:
        """``resume_at``: what an earlier turn wrote from this step on is hidden; ``config``: YAML, shown as text."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=resume_at or None)
        if not resume_at:
            self._writer.add_text("config", "".join(f"    {line}\n" for line in config.splitlines()))

    def train(self, row: Row) -> None:
        for name, value in numbers(row).items():
            self._writer.add_scalar(f"train/{name}", value, row["iteration"])

    def evaluation(self, row: Row) -> None:
        for name, value in numbers(row).items():
            self._writer.add_scalar(f"evaluation/{name}", value, row["step"])
        self._writer.flush()

    def picture(self, path: Path, step: int) -> None:
        image = np.asarray(Image.open(path).convert("RGB"))  # [H, W, 3]
        self._writer.add_image(path.stem, image, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
