"""Does it learn? k-NN accuracy of the EMA backbone, patch features as colours, curves: written into the run folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dinov3.config.derived import largest_global_crop
from dinov3.config.schema import Config
from dinov3.data.sources import parse_dataset
from dinov3.distributed.collectives import broadcast_object
from dinov3.distributed.context import is_main
from dinov3.eval.knn import knn_accuracy
from dinov3.eval.linear import fit_linear
from dinov3.features.extract import FeatureExtractor
from dinov3.features.preprocess import Preprocess
from dinov3.features.source_images import SourceImages, class_tokens
from dinov3.losses.diagnostics import feature_spread, rankme
from dinov3.models.backbone import Backbone
from dinov3.pictures.curves import curves
from dinov3.pictures.pca import pca_sheet
from dinov3.runs import manifest
from dinov3.runs.checkpoint import step_of
from dinov3.runs.metrics import read_metrics
from dinov3.train.forgetting import measure_drift
from dinov3.train.loop import Training

N_PICTURES = 6


def extractor(cfg: Config, backbone: Backbone, size: int) -> FeatureExtractor:
    """The live backbone as a feature extractor, in fp32: ``size`` px a side, the run's own channel statistics."""
    preprocess = Preprocess(tuple(cfg.crops.rgb_mean), tuple(cfg.crops.rgb_std), backbone.stride, size)
    device = next(backbone.parameters()).device
    return FeatureExtractor(backbone, preprocess, device=device, dtype="fp32", batch_size=128)


def spread(n: int, wanted: int | None) -> range:
    """At most ``wanted`` indices (None: all), evenly spread over ``range(n)``: sources are often sorted by class."""
    return range(0, n, max(1, -(-n // (wanted or n))))


def labelled_scores(cfg: Config, backbone: Backbone) -> dict[str, float]:
    """What the labelled images of ``evaluation.knn`` say: k-NN accuracy, a linear probe's when it is wanted, and two
    figures that need no labels: the effective rank of the class tokens and how far they point apart."""
    settings = cfg.evaluation.knn
    parts = []
    assert settings.train is not None  # both or none: checked with the config
    assert settings.test is not None
    for text, limit in ((settings.train, settings.max_train), (settings.test, settings.max_test)):
        source = parse_dataset(text)
        parts.append(
            class_tokens(extractor(cfg, backbone, largest_global_crop(cfg)), source, spread(len(source), limit))
        )
    (train, labels), (test, test_labels) = parts
    scores = {
        "knn_accuracy": knn_accuracy(train, labels, test, test_labels, k=settings.k, temperature=settings.temperature),
        "rankme": float(rankme(train)),
        "cls_spread": float(feature_spread(train)),
    }
    if settings.linear:
        n_classes = int(max(labels.max(), test_labels.max())) + 1
        probe = fit_linear(train, labels, n_classes=n_classes, epochs=settings.linear_epochs, seed=cfg.train.seed)
        scores["linear_accuracy"] = float((probe(test).argmax(1) == test_labels).float().mean())
        scores["linear_learning_rate"] = probe.learning_rate
    return scores


def is_due(step: int, period: int) -> bool:
    """A multiple of ``period``; never when it is 0."""
    return period > 0 and step % period == 0


class Due(NamedTuple):
    """What is to be looked at after a step."""

    knn: bool
    drift: bool
    picture: bool


def due(cfg: Config, step: int, *, ends: bool) -> Due:
    """``ends``: it is the first or the last step."""
    settings = cfg.evaluation
    seen = settings.pictures and cfg.student.in_chans == 3
    return Due(
        knn=settings.knn.train is not None and (ends or is_due(step, settings.knn.period)),
        drift=settings.drift.enabled and (ends or is_due(step, settings.drift.period)),
        picture=seen and is_due(step, settings.pictures_period),
    )


def is_measured(out: Path, step: int) -> bool:
    """Whether ``evaluation.jsonl`` has this step."""
    return any(row["step"] == step for row in read_metrics(out / "evaluation.jsonl"))


def missing(cfg: Config, out: Path, last: Path) -> list[str]:
    """The files of a run's end that are not there, or not those of its ``last`` checkpoint."""
    step, saved = step_of(last), (last / manifest.NAME).stat().st_mtime_ns
    wanted = due(cfg, step, ends=True)
    names = ["evaluation.jsonl"] if (wanted.knn or wanted.drift) and not is_measured(out, step) else []
    drawn = [out / name for name in pictures(cfg, out)]
    return names + [p.name for p in drawn if not p.exists() or p.stat().st_mtime_ns < saved]


def pictures(cfg: Config, out: Path) -> list[str]:
    """What ``draw`` draws."""
    if not cfg.evaluation.pictures:
        return []
    metrics = out / "metrics.jsonl"
    names = ["curves.png"] if metrics.exists() and metrics.stat().st_size else []
    return names + (["pca.png"] if cfg.student.in_chans == 3 else [])


def look(training: Training, out: Path) -> None:
    """Measure and write down k-NN accuracy and drift of this step, what is wanted and not there yet.

    Every process must call it.
    """
    cfg, step = training.cfg, training.counters.step
    wanted = due(cfg, step, ends=step in (0, training.until))
    if not any(wanted) or broadcast_object(is_measured(out, step)):
        return
    backbone = training.model.whole_ema_backbone(training.model.precision.device)
    if not is_main():
        return
    assert backbone is not None
    row: dict[str, Any] = {}
    if wanted.knn:
        row |= labelled_scores(cfg, backbone)
    if wanted.drift:
        row |= measure_drift(extractor(cfg, backbone, largest_global_crop(cfg)), cfg, out, step)
    if wanted.picture:
        picture(training, backbone, out / "pictures" / f"pca-{step:08d}.png")
    if not row:
        return
    assert training.records is not None  # this is the main process
    training.records.evaluation({"step": step, **row})


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that appears under its name when it is whole."""
    fresh = path.with_suffix(f"{path.suffix}.tmp")
    yield fresh
    os.replace(fresh, path)


def draw(training: Training, out: Path) -> None:
    """``curves.png`` and ``pca.png``. Every process must call it."""
    names, model = pictures(training.cfg, out), training.model
    backbone = model.whole_ema_backbone(model.precision.device) if "pca.png" in names else None
    if training.records is None:  # not the main process
        return
    if "curves.png" in names:
        rows = read_metrics(out / "metrics.jsonl")
        with replacing(out / "curves.png") as fresh:
            curves(rows, fresh, read_metrics(out / "evaluation.jsonl"))
        training.records.picture(out / "curves.png", training.counters.step)
    if backbone is not None:
        picture(training, backbone, out / "pca.png")


def picture(training: Training, backbone: Backbone, path: Path) -> None:
    """Patch features of a few training images as colours, the same images every time."""
    cfg, source = training.cfg, training.loader.source
    # twice the training size: a finer grid of patches to look at, and RoPE has no table to interpolate
    look_at = extractor(cfg, backbone, 2 * largest_global_crop(cfg))
    chosen = list(spread(len(source), N_PICTURES))[:N_PICTURES]
    images = torch.stack(list(SourceImages(look_at, source, chosen))).to(look_at.device)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as fresh:
        pca_sheet(backbone, images, cfg.crops.rgb_mean, cfg.crops.rgb_std, fresh)
    assert training.records is not None  # this is the main process
    training.records.picture(path, training.counters.step)


def print_last_line(cfg: Config, out: Path) -> None:
    """Both accuracies, when they were measured."""
    rows = [row for row in read_metrics(out / "evaluation.jsonl") if "knn_accuracy" in row]
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        trained = cfg.start.run or cfg.student.pretrained_weights or cfg.student.resume_from_teacher_chkpt
        began = "at the start" if trained else "untrained"
        print(
            f"k-NN accuracy of the EMA backbone: {100 * first['knn_accuracy']:.1f} % {began}, "
            f"{100 * last['knn_accuracy']:.1f} % after {last['step']} steps"
        )
