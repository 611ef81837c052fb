"""A run's folder: the one place that knows what its files are called."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dinov3.system.files import remove_half_written

CHECKPOINTS = "ckpt"
METRICS, EVALUATION, ALARMS, BAD_SAMPLES = "metrics.jsonl", "evaluation.jsonl", "alarms.jsonl", "bad_samples.jsonl"
SCORES = "scores.jsonl"
CONFIG_YAML, CONFIG_JSON, CONFIG_HISTORY = "config.yaml", "config.json", "config_history"
LOG, RUN_ID, STAGES = "run.log", "run_id.json", "stages.json"
CURVES, PCA, NEIGHBOURS, PICTURES = "curves.png", "pca.png", "neighbours.png", "pictures"
DRIFT_START = "drift_start.safetensors"
NOT_FINITE, HANG = "not_finite", "hang"
METRICS_CSV, EVALUATION_CSV, TENSORBOARD, WANDB = "metrics.csv", "evaluation.csv", "tensorboard", "wandb"
LOCK, LEASE = ".lock", ".lease"
ASIDE = "before-"  # and a number: what an earlier run left

# Everything a run writes but its lock.
ALL = (
    *(
        CHECKPOINTS,
        METRICS,
        EVALUATION,
        SCORES,
        ALARMS,
        BAD_SAMPLES,
        CONFIG_YAML,
        CONFIG_JSON,
        CONFIG_HISTORY,
        LOG,
        RUN_ID,
    ),
    *(CURVES, PCA, PICTURES, DRIFT_START, NOT_FINITE, HANG, METRICS_CSV, EVALUATION_CSV, TENSORBOARD, WANDB),
)
# What some kinds of runs write besides; whatever else lies there is of commands, which may replace it.
PRODUCTS = (
    *(NEIGHBOURS, STAGES, "results.json", "predictions.csv", "predictions.png"),
    *("roc_pr_reliability.png", "roc_pr_reliability.svg", "selected", "features"),
    *("classifier", "segmenter", "detector", "estimator", "recovered"),
)
# What is said of weights: without them it is another run's.
MEASURED = (METRICS, METRICS_CSV, EVALUATION, EVALUATION_CSV, SCORES, ALARMS, DRIFT_START, CURVES, PCA, PICTURES)


def is_run(folder: Path) -> bool:
    """Whether a run has begun in ``folder``."""
    return (folder / RUN_ID).is_file() or (folder / CHECKPOINTS).is_dir()


@dataclass(frozen=True)
class RunFolder:
    """``RUN``. Nothing is made or read before a method is called."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def checkpoints(self) -> Path:
        """Folders ``step-*``, one a checkpoint."""
        return self.path / CHECKPOINTS

    @property
    def metrics(self) -> Path:
        """A JSON line for every logged step."""
        return self.path / METRICS

    @property
    def evaluation(self) -> Path:
        """A JSON line for every evaluation."""
        return self.path / EVALUATION

    @property
    def scores(self) -> Path:
        """A JSON line for every time ``dinov3 eval`` measured its weights."""
        return self.path / SCORES

    @property
    def alarms(self) -> Path:
        """A JSON line for every alarm."""
        return self.path / ALARMS

    @property
    def bad_samples(self) -> Path:
        """A JSON line for every image that could not be read."""
        return self.path / BAD_SAMPLES

    @property
    def config_yaml(self) -> Path:
        """The config as people read it."""
        return self.path / CONFIG_YAML

    @property
    def config_json(self) -> Path:
        """The config as the program reads it."""
        return self.path / CONFIG_JSON

    @property
    def log(self) -> Path:
        """What the run has said."""
        return self.path / LOG

    @property
    def stages(self) -> Path:
        """Where each of several stages is."""
        return self.path / STAGES

    @property
    def curves(self) -> Path:
        """Curves of the metrics."""
        return self.path / CURVES

    @property
    def pca(self) -> Path:
        """Patch features as colours, at the end."""
        return self.path / PCA

    @property
    def neighbours(self) -> Path:
        """Labelled images beside their nearest, at the end."""
        return self.path / NEIGHBOURS

    @property
    def pictures(self) -> Path:
        """Pictures drawn during training."""
        return self.path / PICTURES

    def remove_temporaries(self) -> None:
        """Delete what a killed run left half written. Only the holder of the run's lock may call it."""
        for folder in (self.path, self.pictures):
            remove_half_written(folder)

    def new_aside(self) -> Path:
        """Make and return the next folder ``before-N``."""
        number = 1 + max((int(p.name[len(ASIDE) :]) for p in self._asides()), default=0)
        aside = self.path / f"{ASIDE}{number}"
        aside.mkdir()
        return aside

    def _asides(self) -> list[Path]:
        return [p for p in self.path.glob(f"{ASIDE}*") if p.name[len(ASIDE) :].isdigit()]

    def put_aside(self, names: Iterable[str]) -> Path | None:
        """Move what is there of ``names`` into a new ``before-N``, so that nothing is lost and nothing is continued."""
        earlier = [self.path / name for name in names if os.path.lexists(self.path / name)]
        if not earlier:
            return None
        aside = self.new_aside()
        for path in earlier:
            os.rename(path, aside / path.name)
        return aside
