"""What has become of the features training began with, and when that is reason to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.data.errors import DataError
from dinov3.data.sources import open_dataset
from dinov3.eval.drift import drift
from dinov3.features.extract import FeatureExtractor
from dinov3.features.source_images import SourceImages

START = "drift_start.safetensors"
PATCHES = 16  # of an image, evenly spread: neighbours say the same


def fixed_tokens(extractor: FeatureExtractor, cfg: Config) -> dict[str, Tensor]:
    """``cls [N, D]`` and ``patch [N*PATCHES, D]`` of the fixed images."""
    settings = cfg.evaluation.drift
    source = open_dataset(settings.dataset or cfg.train.dataset_path)
    chosen = torch.linspace(0, len(source) - 1, min(settings.images, len(source))).long().unique().tolist()
    tokens = [layers[0] for layers in extractor.stream_prepared(SourceImages(extractor, source, chosen))]
    if len(tokens) < 2:
        raise DataError(f"evaluation.drift.dataset {settings.dataset}: fewer than 2 images to measure drift on")
    places = torch.linspace(0, tokens[0].patches.shape[1] - 1, PATCHES).long().unique()
    return {
        "cls": torch.cat([t.cls for t in tokens]),
        "patch": torch.cat([t.patches[:, places].flatten(0, 1) for t in tokens]),
    }


def measure_drift(extractor: FeatureExtractor, cfg: Config, out: Path, step: int) -> dict[str, float]:
    """Drift since step 0, whose features are kept in the run folder; DataError when they are not there any more."""
    now, path = fixed_tokens(extractor, cfg), out / START
    if step == 0:
        path.write_bytes(save(now))
    elif not path.exists():
        raise DataError(f"{path}: the features of step 0 are gone: set evaluation.drift.enabled=false to go on without")
    start = load_file(path)
    if any(start[kind].shape != tokens.shape for kind, tokens in now.items()):
        raise DataError(f"{path}: is of other images: put evaluation.drift.images and .dataset back")
    return drift(now, start)


def reason_to_stop(cfg: Config, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What the last of the evaluation's ``rows`` breaks, in words; None when nothing."""
    if not rows:
        return None
    first, last = rows[0], rows[-1]
    lowest, most = cfg.evaluation.drift.stop_below, cfg.evaluation.knn.max_drop
    cosine = last.get("drift_cls_cosine")
    if lowest is not None and cosine is not None and cosine < lowest:
        return (
            f"the CLS tokens have a mean cosine of {cosine:.3f} with those at the start, "
            f"below evaluation.drift.stop_below {lowest:g}"
        )
    before, now = first.get("knn_accuracy"), last.get("knn_accuracy")
    if most is not None and before is not None and now is not None and now < before - most:
        return (
            f"k-NN accuracy fell from {100 * before:.1f} % to {100 * now:.1f} %, "
            f"by more than evaluation.knn.max_drop {most:g}"
        )
    return None
