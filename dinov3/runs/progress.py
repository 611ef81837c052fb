"""The progress line of a run."""

from __future__ import annotations

from tqdm import tqdm


class ProgressLine:
    """A bar with ETA, images/s, loss and the share of time spent waiting for data."""

    def __init__(self, total: int, start: int, *, shown: bool) -> None:
        self._bar = tqdm(
            total=total,
            initial=start,
            disable=not shown,
            unit="step",
            delay=1e-9,  # drawn from the first step on, below the start-up block
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )

    def step(self) -> None:
        self._bar.update(1)

    def describe(self, *, loss: float, images_per_second: float, data_wait: float) -> None:
        """Show the latest figures; ``data_wait`` is a share of wall time between 0 and 1."""
        text = f"loss {loss:.4f}, {images_per_second:.1f} images/s, data wait {data_wait:.0%}"
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        self._bar.close()
