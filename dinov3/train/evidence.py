"""Does it learn? k-NN accuracy of the EMA backbone, patch features as colours, curves: written into the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dinov3.config.derived import largest_global_crop
from dinov3.config.schema import Config
from dinov3.data.sources import Source, parse_dataset
from dinov3.distributed.collectives import broadcast_object
from dinov3.distributed.context import is_main
from dinov3.engine.metrics import read_metrics
from dinov3.eval.knn import knn_accuracy
from dinov3.eval.visualize import curves, pca_sheet
from dinov3.features.extract import FeatureExtractor, stride_of
from dinov3.features.preprocess import Preprocess
from dinov3.features.source_images import SourceImages, class_tokens
from dinov3.train.forgetting import measure_drift
from dinov3.train.loop import Training

N_PICTURES = 6


def extractor(cfg: Config, backbone: torch.nn.Module, size: int) -> FeatureExtractor:
    """The live backbone as a feature extractor, in fp32: ``size`` px a side, the run's own channel statistics."""
    preprocess = Preprocess(tuple(cfg.crops.rgb_mean), tuple(cfg.crops.rgb_std), stride_of(backbone), size)
    device = next(backbone.parameters()).device
    return FeatureExtractor(backbone, preprocess, device=device, dtype="fp32", batch_size=128)


def spread(n: int, wanted: int | None) -> range:
    """At most ``wanted`` indices (None: all), evenly spread over ``range(n)``: sources are often sorted by class."""
    return range(0, n, max(1, -(-n // (wanted or n))))


def knn(cfg: Config, backbone: torch.nn.Module) -> float:
    """k-NN accuracy on ``evaluation.knn.test`` from neighbours in ``evaluation.knn.train``."""
    settings = cfg.evaluation.knn
    parts = []
    assert settings.train is not None  # both or none: checked with the config
    assert settings.test is not None
    for text, limit in ((settings.train, settings.max_train), (settings.test, settings.max_test)):
        source = parse_dataset(text)
        parts.append(
            class_tokens(extractor(cfg, backbone, largest_global_crop(cfg)), source, spread(len(source), limit))
        )
    (train, train_labels), (test, test_labels) = parts
    return knn_accuracy(train, train_labels, test, test_labels, k=settings.k, temperature=settings.temperature)


def is_due(step: int, period: int) -> bool:
    """A multiple of ``period``; never when it is 0."""
    return period > 0 and step % period == 0


def look(training: Training, out: Path) -> None:
    """Measure and write down k-NN accuracy and drift of this step, what is wanted and not there yet.

    Every process must call it.
    """
    cfg, step = training.cfg, training.counters.step
    path, ends = out / "evaluation.jsonl", step in (0, training.until)
    knn_due = cfg.evaluation.knn.train is not None and (ends or is_due(step, cfg.evaluation.knn.period))
    drift_due = cfg.evaluation.drift.enabled and (ends or is_due(step, cfg.evaluation.drift.period))
    if not (knn_due or drift_due) or broadcast_object(any(row["step"] == step for row in read_metrics(path))):
        return
    backbone = training.model.whole_ema_backbone(training.model.precision.device)
    if not is_main():
        return
    assert backbone is not None
    row: dict[str, Any] = {}
    if knn_due:
        row["knn_accuracy"] = knn(cfg, backbone)
    if drift_due:
        row |= measure_drift(extractor(cfg, backbone, largest_global_crop(cfg)), cfg, out, step)
    assert training.records is not None  # this is the main process
    training.records.evaluation({"step": step, **row})


def draw(training: Training, source: Source, out: Path) -> None:
    """``curves.png`` and ``pca.png``. Every process must call it."""
    cfg = training.cfg
    if not cfg.evaluation.pictures:
        return
    seen = cfg.student.in_chans == 3
    backbone = training.model.whole_ema_backbone(training.model.precision.device) if seen else None
    if training.records is None:  # not the main process
        return
    rows = read_metrics(out / "metrics.jsonl")
    if rows:
        curves(rows, out / "curves.png", read_metrics(out / "evaluation.jsonl"))
        training.records.picture(out / "curves.png", training.counters.step)
    if backbone is not None:
        # twice the training size: a finer grid of patches to look at, and RoPE has no table to interpolate
        look_at = extractor(cfg, backbone, 2 * largest_global_crop(cfg))
        chosen = list(spread(len(source), N_PICTURES))[:N_PICTURES]
        images = torch.stack(list(SourceImages(look_at, source, chosen))).to(look_at.device)
        pca_sheet(backbone, images, cfg.crops.rgb_mean, cfg.crops.rgb_std, out / "pca.png")
        training.records.picture(out / "pca.png", training.counters.step)


def print_last_line(out: Path) -> None:
    """Both accuracies, when they were measured."""
    rows = [row for row in read_metrics(out / "evaluation.jsonl") if "knn_accuracy" in row]
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        print(
            f"k-NN accuracy of the EMA backbone: {100 * first['knn_accuracy']:.1f} % untrained, "
            f"{100 * last['knn_accuracy']:.1f} % after {last['step']} steps"
        )
