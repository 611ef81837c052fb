"""A run as ``dinov3.train`` returns it: where it is, what it measured, and how a notebook shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinov3.pictures.figures import HEADLINES, figure, first_to_last
from dinov3.runs.folder import RunFolder
from dinov3.runs.stage_record import read_stages
from dinov3.system.errors import EXIT_DONE, EXIT_PREEMPTED
from dinov3.system.html import embedded, joined, markup
from dinov3.system.rows import Row, is_number, read_rows

if TYPE_CHECKING:
    from dinov3.features.extract import FeatureExtractor


@dataclass(frozen=True)
class Run:
    """``path``: the run folder; ``code``: what the command would have ended with."""

    path: Path
    code: int = EXIT_DONE

    @property
    def finished(self) -> bool:
        """Whether its last step is done."""
        return self.code == EXIT_DONE

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop; the same call continues it."""
        return self.code == EXIT_PREEMPTED

    def metrics(self) -> list[Row]:
        """A row a logged step; of a run with stages those of its latest."""
        return read_rows(self._latest().metrics)

    def evaluations(self) -> list[Row]:
        """A row an evaluation; accuracies between 0 and 1."""
        return read_rows(self._latest().evaluation)

    def load(self, **how: Any) -> FeatureExtractor:
        """Its backbone, as ``dinov3.load`` has it."""
        from dinov3.features.extract import load

        return load(self.path, **how)

    def report(self, out: Path | None = None) -> Path:
        """Write its page, as ``dinov3 report`` does; where it is."""
        from dinov3.pictures.run_page import write_report

        return write_report(self.path, out)

    def _latest(self) -> RunFolder:
        """The folder that has figures: its own, or that of the last stage that has begun."""
        begun = [self.path / stage.folder for stage in read_stages(self.path)]
        return RunFolder(next((folder for folder in reversed(begun) if RunFolder(folder).metrics.is_file()), self.path))

    def _facts(self) -> str:
        rows, evaluations = self.metrics(), self.evaluations()
        state = (
            "finished" if self.finished else "stopped, the same call continues it" if self.stopped else "ended early"
        )
        said = [f"{state} after {rows[-1]['iteration'] + 1:,} steps" if rows else state]
        if rows and is_number(loss := rows[-1].get("total_loss")):
            said.append(f"loss {loss:.3f}")
        for key in HEADLINES:
            found = first_to_last(key, evaluations, " to ")
            said += [f"{figure(key).label} {found}"] if found else []
        return ", ".join(said)

    def __str__(self) -> str:
        return f"{self.path}: {self._facts()}"

    def _repr_html_(self) -> str:
        """In a notebook: the facts, the curves and the patch features, without a plotting library of the notebook's."""
        folder = self._latest()
        pictures = [path for path in (folder.curves, folder.neighbours, folder.pca) if path.is_file()]
        shown = [
            markup('<img style="max-width:100%" alt="{}" src="{}">', path.name, embedded(path)) for path in pictures
        ]
        return joined([markup("<p><code>{}</code>: {}</p>", self.path, self._facts()), *shown])
