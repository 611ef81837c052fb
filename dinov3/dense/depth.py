"""Depth with a linear head over bins on frozen features: fit on one part of a set, score on the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.data.errors import BadImage, DataError
from dinov3.dense.augment import Augment, nearest, resized_pixels
from dinov3.dense.depth_bins import BINS, NORMS, depth_of
from dinov3.dense.depth_losses import WARM_UP_CALLS, SigLoss
from dinov3.dense.depth_metrics import evaluate_depth, mean_scores, table_of, valid_pixels
from dinov3.dense.frozen import Cache, Maps, maps_of, patch_maps, views_of
from dinov3.dense.heads import fit_ridge_head, logits_of
from dinov3.dense.linear_head import LinearHead
from dinov3.dense.probe import chosen_rows, fit_head
from dinov3.dense.protocols import DepthProtocol
from dinov3.dense.report import LeftOut
from dinov3.dense.sets import DenseSet, few, read_both
from dinov3.dense.views import FreshViews, normalised
from dinov3.dense.windows import resized
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor
from dinov3.system.bars import Counting, counted

SHOWN = 6  # test images kept for the picture
LABELS_A_SIDE = 8  # depths of a patch side, in training
ROTATION, BRIGHTNESS = 2.5, (0.9, 1.1)  # of DINOv3's training views


@dataclass
class Depth:
    """What was found."""

    scores: list[dict[str, Any]]
    images: dict[str, int]
    without_truth: int  # test images that were read but have no valid pixel: in no mean
    shown: list[tuple[Pixels, Tensor, Tensor]] = field(default_factory=list)  # image, truth, prediction [H, W]


@dataclass
class Loss:
    """SigLoss of the depth that logits stand for, at the size of the truth, on valid pixels."""

    protocol: DepthProtocol
    sig_loss: SigLoss = field(init=False)

    def __post_init__(self) -> None:
        # the mean alone teaches no shape: of a short fit it must not be all
        self.sig_loss = SigLoss(min(WARM_UP_CALLS, self.protocol.steps // 10))

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Of ``logits [N, bins, h, w]`` and ``truth [N, H, W]``; 0 where fewer than two pixels are valid."""
        p = self.protocol
        depth = depth_of(logits, p.low, p.high, bins=p.bin_rule, norm=p.norm)
        large = resized(depth, (truth.shape[1], truth.shape[2]))[:, 0]
        valid = valid_pixels(truth, p.low, p.high)
        if int(valid.sum()) < 2:
            return large.sum() * 0
        return self.sig_loss(large, truth, valid)


def check(protocol: DepthProtocol) -> None:
    """FeatureError for settings without a meaning."""
    protocol.check()
    if not 0 < protocol.low < protocol.high or not protocol.units > 0:
        raise FeatureError(
            f"low={protocol.low:g} high={protocol.high:g} units={protocol.units:g}: 0 < low < high, units above 0"
        )
    if protocol.bin_rule not in BINS or protocol.norm not in NORMS or protocol.bins < 1:
        raise FeatureError(f"bin_rule: {', '.join(BINS)}; norm: {', '.join(NORMS)}; bins at least 1")
    if (protocol.crop_height > 0) != (protocol.crop_width > 0):
        raise FeatureError("crop_height and crop_width: give both, or 0 for whole images")
    if protocol.probe == "ridge" and protocol.crop_height:
        raise FeatureError("probe=ridge is for whole images: with crop_height=0 crop_width=0, or probe=sgd")


def evaluate(
    extractor: FeatureExtractor,
    train: DenseSet,
    test: DenseSet,
    protocol: DepthProtocol,
    cache: Cache,
    left_out: LeftOut,
    *,
    max_bad_frac: float,
    counting: Counting = counted,
) -> Depth:
    """Fit and score. Raises TooManyBadSamples, DataError."""
    train, test = few(train, protocol.limit), few(test, protocol.limit)
    left_out.of = len(train) + len(test)
    if protocol.crop_height:
        return _evaluate_views(extractor, train, test, protocol, left_out, max_bad_frac, counting)
    maps = maps_of(extractor, train, cache, max_bad_frac=max_bad_frac, counting=counting)
    tested, mirrored = views_of(
        extractor, test, cache, flip=protocol.flip_tta, max_bad_frac=max_bad_frac, counting=counting
    )
    for skipped in (*maps.skipped, *tested.skipped):
        left_out.add(skipped["name"], skipped["reason"])
    maps, truths = _with_truth(maps, train, left_out)
    left_out.check(max_bad_frac)
    head = _fit_cached(maps.maps, truths, protocol, extractor, counting)
    found = _Scores(protocol)
    for index, views in tested.rows(mirrored):
        if (pair := _read(test, index, left_out)) is not None:
            each = [predicted(logits_of(head, patches), protocol) for patches in views]
            found.add(*pair, torch.stack([each[0], *(other.flip(-1) for other in each[1:])]).mean(0))
    left_out.check(max_bad_frac)
    return found.result(f"linear ({protocol.probe})", len(maps.index))


def predicted(logits: Tensor, protocol: DepthProtocol) -> Tensor:
    """Depth ``[h, w]`` of one image's logits ``[K, h, w]``; ridge has one channel, the logarithm of the depth."""
    if protocol.probe == "ridge":
        return logits[0].exp().clamp(protocol.low, protocol.high)
    return depth_of(logits[None], protocol.low, protocol.high, bins=protocol.bin_rule, norm=protocol.norm)[0, 0]


def patch_log_depth(truth: Tensor, grid: tuple[int, int], low: float, high: float) -> tuple[Tensor, Tensor]:
    """(mean ln depth ``[N, P, 1]``, valid share ``[N, P]``) of truths ``[N, H, W]`` with sides the grid divides."""
    valid = valid_pixels(truth, low, high).float()
    logs = truth.clamp_min(low).log() * valid
    height, width = truth.shape[1] // grid[0], truth.shape[2] // grid[1]
    total = torch.nn.functional.avg_pool2d(logs[:, None], (height, width))[:, 0]
    share = torch.nn.functional.avg_pool2d(valid[:, None], (height, width))[:, 0]
    return (total / share.clamp_min(1e-9)).flatten(1)[..., None], share.flatten(1)


def _fit_cached(
    maps: Tensor, truths: Tensor, protocol: DepthProtocol, extractor: FeatureExtractor, counting: Counting
) -> LinearHead:
    if protocol.probe == "ridge":
        targets, known = patch_log_depth(truths, (maps.shape[2], maps.shape[3]), protocol.low, protocol.high)
        return fit_ridge_head(maps, targets, known)[0]

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        rows = chosen_rows(len(maps), protocol.batch, protocol.seed, step)
        return maps[rows].float(), truths[rows]

    make = partial(LinearHead, [maps.shape[1]], protocol.bins, dropout=protocol.dropout)
    head = fit_head(make, batch_at, Loss(protocol), protocol.fit, extractor.device, counting)
    assert isinstance(head, LinearHead)
    return head


def _evaluate_views(
    extractor: FeatureExtractor,
    train: DenseSet,
    test: DenseSet,
    protocol: DepthProtocol,
    left_out: LeftOut,
    max_bad_frac: float,
    counting: Counting,
) -> Depth:
    """Random crops in training, whole images in the test."""
    crop = (protocol.crop_height, protocol.crop_width)
    rules = Augment(crop, fill=0, brightness=BRIGHTNESS, rotation=ROTATION)
    views = FreshViews(extractor, train, rules, np.asarray, protocol.batch, protocol.seed, left_out, max_bad_frac)
    make = partial(LinearHead, [extractor.backbone.embed_dim], protocol.bins, dropout=protocol.dropout)
    head = fit_head(make, views, Loss(protocol), protocol.fit, extractor.device, counting)
    assert isinstance(head, LinearHead)
    found = _Scores(protocol)
    for index in range(len(test)):
        if (pair := _read(test, index, left_out)) is not None:
            image = normalised(resized_pixels(pair[0], _whole_patches(pair[1], extractor)), extractor)[None]
            both = [image, image.flip(-1)] if protocol.flip_tta else [image]
            each = [predicted(logits_of(head, patch_maps(extractor, x)[0]), protocol) for x in both]
            found.add(*pair, torch.stack([each[0], *(other.flip(-1) for other in each[1:])]).mean(0))
    left_out.check(max_bad_frac)
    return found.result("linear (sgd)", len(train))


def _whole_patches(truth: Tensor, extractor: FeatureExtractor) -> tuple[int, int]:
    patch = extractor.preprocess.patch
    return round(truth.shape[0] / patch) * patch or patch, round(truth.shape[1] / patch) * patch or patch


class _Scores:
    """Scores of test images, and the first of them to be shown."""

    def __init__(self, protocol: DepthProtocol) -> None:
        self.protocol = protocol
        self.rows: list[Tensor] = []
        self.shown: list[tuple[Pixels, Tensor, Tensor]] = []
        self.empty = 0

    def add(self, pixels: Pixels, truth: Tensor, prediction: Tensor) -> None:
        p = self.protocol
        row, valid, (scale, shift) = evaluate_depth(
            prediction, truth, low=p.low, high=p.high, eigen=p.eigen, align=p.align
        )
        self.rows.append(row)
        self.empty += int(not valid.any())
        if len(self.shown) < SHOWN:
            large = resized(prediction[None, None], (truth.shape[0], truth.shape[1]))[0, 0]
            self.shown.append((pixels, truth, (scale * large + shift).clamp(p.low, p.high)))

    def result(self, name: str, trained: int) -> Depth:
        if not self.rows or bool(mean_scores(torch.stack(self.rows)).isnan().all()):
            raise DataError(f"no test image has a depth between {self.protocol.low:g} and {self.protocol.high:g} m")
        images = {"train": trained, "test": len(self.rows)}
        return Depth([{"head": name, **table_of(self.rows)}], images, self.empty, self.shown)


def _read(dense: DenseSet, index: int, left_out: LeftOut) -> tuple[Pixels, Tensor] | None:
    try:
        pixels, truth = read_both(dense, index)
        return pixels, torch.from_numpy(np.require(truth, requirements=["C", "W"])).float()
    except BadImage as error:
        left_out.add(dense.name(index), str(error))
        return None


def _with_truth(maps: Maps, dense: DenseSet, left_out: LeftOut) -> tuple[Maps, Tensor]:
    """Images whose depth can be read, and the depths ``[N, H, W]`` at 8 numbers a patch side. DataError for none."""
    rows, truths = [], []
    size = (LABELS_A_SIDE * maps.maps.shape[2], LABELS_A_SIDE * maps.maps.shape[3])
    for row, index in enumerate(maps.index):
        if (pair := _read(dense, index, left_out)) is not None:
            rows.append(row)
            truths.append(nearest(pair[1], size))
    if not rows:
        raise DataError(f"no training depth can be used: {left_out.rows[0]['reason']}")
    return Maps([maps.index[row] for row in rows], maps.maps[rows], maps.skipped), torch.stack(truths)
