"""Segmentation, depth and matching by the EMA backbone's patch features: the small protocols of ``dinov3 eval``.

The figures are those of that command on the backbone of the same step. What k-NN on class tokens does not see, such as
patch features that lose their places in a long run, these do. Heads are trained with seeds of their own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config, DenseConfig
from dinov3.data.decode import Reading, read_image
from dinov3.data.errors import BadImage, DataError, TooManyBadSamples
from dinov3.data.sources import Source, open_dataset
from dinov3.dense import depth, segment
from dinov3.dense.frozen import Maps
from dinov3.dense.matching import match
from dinov3.dense.protocols import DEPTH, MATCH, SEGMENT, DepthProtocol, MatchProtocol, SegmentProtocol, chosen
from dinov3.dense.report import LeftOut
from dinov3.dense.sets import few, images_of, open_parts, read_both
from dinov3.engine.look import Look
from dinov3.eval.online.scene import Scene
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor
from dinov3.system.bars import Count, Counting
from dinov3.system.errors import first_line

log = logging.getLogger("dinov3")

TRIED = 10  # images of each part that are read before a run begins
LIMIT = "data.max_bad_frac"
HEADS = {"linear": "seg_miou", "-NN": "seg_knn_miou", "foreground": "seg_foreground_iou"}
FEATURES = {"raw": "match_recall", "debiased": "match_recall_debiased"}
RECALL = "recall@1p"  # within a patch


class Dense(Look[Scene]):
    name = "dense"

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.period = cfg, cfg.evaluation.dense.period

    def due(self, step: int, *, ends: bool) -> bool:
        return bool(self.cfg.evaluation.dense.tasks) and super().due(step, ends=ends)

    def measure(self, scene: Scene) -> dict[str, Any]:
        """Raises DataError for images or truths that cannot be used."""
        tasks, row = self.cfg.evaluation.dense.tasks, dict[str, Any]()
        about = f"dense features of step {scene.step}"
        work = _Work(self.cfg, scene.extractor(), partial(_counting, scene, about))
        with scene.progress.counting(f"{about}, {', '.join(tasks)}:", len(tasks), "tasks") as count:
            for task in tasks:
                row |= work.figures(task)
                count(1)
        return row


@contextmanager
def _counting(scene: Scene, whose: str, about: str, total: int, unit: str) -> Iterator[Count]:
    """Of a part, in the progress line of the run."""
    with scene.progress.counting(f"{whose}, {about}:", total, unit, announced=False) as count:
        yield count


@dataclass
class _Work:
    """The tasks of one step. Features of images that several of them use are computed once."""

    cfg: Config
    extractor: FeatureExtractor
    counting: Counting
    memory: dict[str, Maps] = field(default_factory=dict)

    def figures(self, task: str) -> dict[str, float]:
        """Of one task; without any when its numbers are no longer finite, which is said. DataError for its data."""
        left_out = LeftOut(limit=LIMIT)
        try:
            found = TASKS[task](self, left_out)
        except (FloatingPointError, torch.linalg.LinAlgError) as error:
            log.warning("evaluation.dense: no figure of %s: %s", task, first_line(error))
            return {}
        except (ValueError, FeatureError, TooManyBadSamples) as error:
            raise DataError(f"evaluation.dense, {task}: {error}") from error
        if left_out.rows:
            first = left_out.rows[0]
            said = (
                f"{len(left_out.rows)} of {left_out.of} images left out, the first {first['name']}: {first['reason']}"
            )
            log.warning("evaluation.dense: %s: %s", task, said)
        if lost := [name for name, value in found.items() if not math.isfinite(value)]:
            log.warning("evaluation.dense: no figure %s: it is not finite", ", ".join(lost))
        return {name: value for name, value in found.items() if name not in lost}

    def seg(self, left_out: LeftOut) -> dict[str, float]:
        """Mean IoU of a linear head and of dense k-NN."""
        data, protocol = data_of(self.cfg.evaluation.dense, "seg"), segment_protocol(self.cfg.evaluation.dense)
        most, parts = self.cfg.data.max_bad_frac, open_parts(data, "mask")
        found = segment.evaluate(
            self.extractor, *parts, protocol, self.memory, left_out, max_bad_frac=most, counting=self.counting
        )
        return {HEADS[_kind(score["head"])]: score["mIoU"] for score in found.scores}

    def depth(self, left_out: LeftOut) -> dict[str, float]:
        """RMSE of a linear head over bins, in the units of the truth."""
        data, protocol = data_of(self.cfg.evaluation.dense, "depth"), depth_protocol(self.cfg.evaluation.dense)
        most, parts = self.cfg.data.max_bad_frac, open_parts(data, "depth", units=protocol.units)
        found = depth.evaluate(
            self.extractor, *parts, protocol, self.memory, left_out, max_bad_frac=most, counting=self.counting
        )
        return {"depth_rmse": found.scores[0]["rmse"]}

    def match(self, left_out: LeftOut) -> dict[str, float]:
        """Recall within a patch, of images and themselves seen through a homography."""
        protocol = match_protocol(self.cfg.evaluation.dense)
        found = match.homographies(self.extractor, images_to_match(self.cfg), protocol, left_out, self.counting)
        left_out.check(self.cfg.data.max_bad_frac)
        rows = {score["features"]: score[RECALL] for score in found.scores}
        return {name: rows[features] for features, name in FEATURES.items() if features in rows}


TASKS: dict[str, Callable[[_Work, LeftOut], dict[str, float]]] = {
    "seg": _Work.seg,
    "depth": _Work.depth,
    "match": _Work.match,
}


def _kind(head: str) -> str:
    return next(kind for kind in HEADS if kind in head)


def segment_protocol(dense: DenseConfig) -> SegmentProtocol:
    """``small`` with the settings of the config. FeatureError for one that does not fit."""
    protocol = chosen(
        {"small": replace(SEGMENT["small"], limit=dense.limit or 0)}, "small", dense.settings.get("seg", [])
    )
    segment.check(protocol)
    return protocol


def depth_protocol(dense: DenseConfig) -> DepthProtocol:
    """Likewise."""
    protocol = chosen(
        {"small": replace(DEPTH["small"], limit=dense.limit or 0)}, "small", dense.settings.get("depth", [])
    )
    depth.check(protocol)
    return protocol


def match_protocol(dense: DenseConfig) -> MatchProtocol:
    """``homography`` likewise, without the estimate of the positional bias unless the settings ask for it."""
    base = replace(MATCH["homography"], most_pairs=dense.limit or 0, debias_images=0)
    protocol = chosen({"homography": base}, "homography", dense.settings.get("match", []))
    match.check(protocol)
    if protocol.task != base.task:
        raise FeatureError(f"task={protocol.task}: while a run trains only {base.task}")
    return protocol


PROTOCOLS: dict[str, Callable[[DenseConfig], SegmentProtocol | DepthProtocol | MatchProtocol]] = {
    "seg": segment_protocol,
    "depth": depth_protocol,
    "match": match_protocol,
}


def data_of(dense: DenseConfig, task: str) -> str:
    """What is named for segmentation or depth."""
    text = dense.data_of.get(task, dense.data)
    assert text is not None  # checked with the config
    return text


def images_to_match(cfg: Config) -> Source:
    """What is named for matching, or the training images. Raises DataError."""
    dense = cfg.evaluation.dense
    text = dense.data_of.get("match", dense.data)
    return open_dataset(cfg.train.dataset_path) if text is None else images_of(text)


def check_dense(cfg: Config) -> None:
    """Before anything is built or written: ConfigError for a setting, DataError for data, that cannot be used."""
    dense = cfg.evaluation.dense
    for task, read_protocol in PROTOCOLS.items():
        try:
            protocol = read_protocol(dense)
        except FeatureError as error:
            raise ConfigError("config", f"evaluation.dense.settings.{task}", str(error)) from error
        if task not in dense.tasks:
            continue
        if isinstance(protocol, MatchProtocol):
            source = images_to_match(cfg)
            _try(source, partial(read_image, source, reading=Reading.from_config(cfg)), task)
            continue
        kind, units = ("depth", protocol.units) if isinstance(protocol, DepthProtocol) else ("mask", 1.0)
        for part in open_parts(data_of(dense, task), kind, units=units):
            used = few(part, protocol.limit)
            _try(used, partial(read_both, used), task)


def _try(source: Source, read: Callable[[int], object], task: str) -> None:
    """DataError when none of the first images can be read."""
    reason = "it has no images"
    for index in range(min(len(source), TRIED)):
        try:
            read(index)
            return
        except (BadImage, OSError) as error:
            reason = f"{source.name(index)}: {error}"
    raise DataError(f"evaluation.dense, {task}: none of the first {TRIED} images can be used, the last {reason}")
