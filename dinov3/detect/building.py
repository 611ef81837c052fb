"""From a config and where a run starts to a detector ready to train."""

from __future__ import annotations

from dinov3.detect.config import DetectConfig
from dinov3.detect.detector import Detector, build_head
from dinov3.detect.detector_file import PRODUCT, About
from dinov3.detect.metric import check_installed
from dinov3.finetune.headed.building import Built, check_multiple, load_start
from dinov3.runs.start import Start


def about_of(cfg: DetectConfig, classes: list[str]) -> About:
    """What the file of a detector says before the first step."""
    model, evaluation = cfg.model, cfg.evaluation
    return About(
        classes=classes,
        frozen=model.frozen,
        upscale=model.upscale,
        levels=model.levels,
        width=model.width,
        depth=model.depth,
        side=cfg.augment.side,
        least_score=evaluation.least_score,
        overlap=evaluation.overlap,
        weights=model.weights,
        step=0,
    )


def build_detector(cfg: DetectConfig, start: Start, classes: list[str]) -> Built[Detector, About]:
    """On the CPU. Raises ConfigError, FinetuneError, WeightsError or CheckpointError."""
    check_installed()
    loaded, about = load_start(cfg.model, start), about_of(cfg, classes)
    check_multiple("augment.side", about.side, loaded.backbone.stride)
    detector = Detector(loaded.backbone, build_head(about.shape, loaded.backbone), frozen=about.frozen)
    facts = loaded.facts(f"detector, {len(classes)} classes of objects", about.side, cfg.data)
    return loaded.built(PRODUCT, detector, about, cfg, facts)
