"""Segmentation with a linear head on frozen features: fit on one part of a set, score on the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.data.errors import BadImage, DataError
from dinov3.dense.augment import Augment, nearest, resized_pixels
from dinov3.dense.foreground import foreground_iou, foreground_scores
from dinov3.dense.frozen import Cache, Maps, maps_of, patch_maps, views_of
from dinov3.dense.heads import Scores, fit_ridge_head, logits_of, over_views
from dinov3.dense.linear_head import LinearHead
from dinov3.dense.neighbours import class_shares, neighbour_votes, patch_bank
from dinov3.dense.probe import chosen_rows, fit_head
from dinov3.dense.protocols import SegmentProtocol
from dinov3.dense.report import LeftOut
from dinov3.dense.segmentation import areas, class_scores, summary, without_zero
from dinov3.dense.sets import DenseSet, few, read_both
from dinov3.dense.truth_files import check_labels
from dinov3.dense.views import FreshViews, normalised
from dinov3.dense.windows import resized, slide, with_flip
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor
from dinov3.system.bars import Counting, counted

MOST_CLASSES = (
    10_000  # a number above it is taken for a mark, such as 65535, when nobody has said how many classes there are
)
SHOWN = 6  # test images kept for the picture
LABELS_A_SIDE = 8  # of a patch, in training: finer than a linear head can follow, and a quarter of 16 in work


@dataclass
class Segmentation:
    """What was found."""

    classes: int
    scores: list[dict[str, Any]]
    images: dict[str, int]  # train and test, those that were used
    shown: list[tuple[Pixels, Tensor, Tensor]] = field(default_factory=list)  # image, truth, prediction [H, W]


def check(protocol: SegmentProtocol) -> None:
    """FeatureError for settings without a meaning."""
    protocol.check()
    if protocol.probe == "ridge" and protocol.crop:
        raise FeatureError("probe=ridge is for whole images: with crop=0, or probe=sgd")
    plain = SegmentProtocol()
    for name in ("stride", "short_side"):
        if not protocol.crop and getattr(protocol, name) != getattr(plain, name):
            raise FeatureError(f"{name} does nothing without crop: leave it out, or give crop a side in px")
    if protocol.crop and protocol.foreground != plain.foreground:
        raise FeatureError("foreground is found on whole images: with crop=0, or leave it out")


def prepared(mask: NDArray[np.generic], classes: int, protocol: SegmentProtocol) -> NDArray[np.int32]:
    """Class numbers with ``protocol.ignore`` where nothing is labelled. Raises BadImage for one outside the classes."""
    numbers = torch.from_numpy(np.require(mask, requirements=["C", "W"])).int()
    ready = (without_zero(numbers, protocol.ignore) if protocol.reduce_zero else numbers).int().numpy()
    check_labels(ready, classes, protocol.ignore)
    return ready


def count_classes(dense: DenseSet, protocol: SegmentProtocol) -> int:
    """The largest class of the training masks + 1. Masks that cannot be read are left to those who use them.

    DataError for fewer than two, and for a number so large that it must mean something else.
    """
    largest, labelled, reason = -1, False, ""
    for index in range(len(dense)):
        try:
            mask = torch.from_numpy(np.require(dense.truth(index), requirements=["C", "W"])).int()
        except (BadImage, OSError) as error:
            reason = reason or f"; {dense.name(index)}: {error}"
            continue
        mask = without_zero(mask, protocol.ignore) if protocol.reduce_zero else mask
        used = mask[mask != protocol.ignore]
        largest, labelled = max(largest, int(used.max()) if len(used) else -1), labelled or len(used) > 0
    if largest >= MOST_CLASSES:
        raise DataError(
            f"the training masks have the number {largest}: where it marks what nobody labelled, say so (ignore={largest}); "
            "otherwise give the number of classes"
        )
    if not labelled:
        raise DataError(f"no training mask has a pixel with a label (ignore is {protocol.ignore}){reason}")
    if largest < 1:
        raise DataError(f"the training masks have {largest + 1} classes: segmentation needs at least two{reason}")
    return largest + 1


def evaluate(
    extractor: FeatureExtractor,
    train: DenseSet,
    test: DenseSet,
    protocol: SegmentProtocol,
    cache: Cache,
    left_out: LeftOut,
    *,
    max_bad_frac: float,
    counting: Counting = counted,
) -> Segmentation:
    """Fit and score. Raises TooManyBadSamples, DataError."""
    train, test = few(train, protocol.limit), few(test, protocol.limit)
    classes = protocol.classes or count_classes(train, protocol)
    if protocol.foreground >= classes:
        raise DataError(f"foreground={protocol.foreground}: the classes are numbered from 0 to {classes - 1}")
    left_out.of = len(train) + len(test)
    if protocol.crop:
        return _evaluate_views(extractor, train, test, protocol, classes, left_out, max_bad_frac, counting)
    maps = maps_of(extractor, train, cache, max_bad_frac=max_bad_frac, counting=counting)
    tested, mirrored = views_of(
        extractor, test, cache, flip=protocol.flip_tta, max_bad_frac=max_bad_frac, counting=counting
    )
    for skipped in (*maps.skipped, *tested.skipped):
        left_out.add(skipped["name"], skipped["reason"])
    maps, labels = _labelled(maps, train, classes, protocol, left_out)
    left_out.check(max_bad_frac)
    head = _fit_cached(maps.maps, labels, classes, protocol, extractor, counting)
    voters: dict[str, Scores] = {f"linear ({protocol.probe})": partial(_probabilities, head)}
    if protocol.knn:
        voters[f"{protocol.knn}-NN"] = _neighbours(maps.maps, labels, classes, protocol)
    found = Segmentation(classes, [], {"train": len(maps.index), "test": 0})
    totals = {name: torch.zeros(4, classes, dtype=torch.int64) for name in voters}
    for index, views in tested.rows(mirrored):
        if (pair := _read(test, index, classes, protocol, left_out)) is None:
            continue
        pixels, truth = pair
        found.images["test"] += 1
        for name, vote in voters.items():
            said = over_views(vote, views, (truth.shape[0], truth.shape[1])).argmax(0)
            totals[name] += areas(said, truth, classes, protocol.ignore)
            if name.startswith("linear") and len(found.shown) < SHOWN:
                found.shown.append((pixels, truth, said))
    left_out.check(max_bad_frac)
    found.scores = [_row(name, total) for name, total in totals.items()]
    _check_scored(found)
    if protocol.foreground >= 0:
        found.scores.append(_foreground(maps.maps, labels, protocol))
    return found


def _check_scored(found: Segmentation) -> None:
    """DataError when not one pixel of the test has a label."""
    if all(score is None for score in found.scores[0]["iou_of_class"]):
        raise DataError("no test mask has a pixel with a label: there is nothing to score")


def _foreground(maps: Tensor, labels: Tensor, protocol: SegmentProtocol) -> dict[str, Any]:
    """IoU of PCA's foreground on the training images, whose labels only score it."""
    grid = (maps.shape[2], maps.shape[3])
    objects = (labels >= protocol.foreground) & (labels != protocol.ignore)
    small = torch.stack([nearest(mask, grid) for mask in objects])
    scores = foreground_scores(maps.flatten(2).mT, grid)
    return {"head": "foreground by PCA", "mIoU": foreground_iou(scores, small)}


def _evaluate_views(
    extractor: FeatureExtractor,
    train: DenseSet,
    test: DenseSet,
    protocol: SegmentProtocol,
    classes: int,
    left_out: LeftOut,
    max_bad_frac: float,
    counting: Counting,
) -> Segmentation:
    """Random crops in training, sliding windows in the test."""
    rules = Augment((protocol.crop, protocol.crop), protocol.ignore, protocol.short_side, (0.5, 2.0))
    ready = partial(prepared, classes=classes, protocol=protocol)
    batch, seed = protocol.batch, protocol.seed
    views = FreshViews(extractor, train, rules, ready, batch, seed, left_out, max_bad_frac)
    loss = partial(upsampled_cross_entropy, ignore=protocol.ignore)
    make = partial(LinearHead, [extractor.backbone.embed_dim], classes, dropout=protocol.dropout)
    head = fit_head(make, views, loss, protocol.fit, extractor.device, counting)
    crop, stride = (protocol.crop, protocol.crop), (protocol.stride or protocol.crop,) * 2

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        found: Tensor = head([patch_maps(extractor, images).to(next(head.parameters()).device)])
        return found.cpu()

    found = Segmentation(classes, [], {"train": len(train), "test": 0})
    total = torch.zeros(4, classes, dtype=torch.int64)
    for index in range(len(test)):
        if (pair := _read(test, index, classes, protocol, left_out)) is None:
            continue
        pixels, truth = pair
        found.images["test"] += 1
        image = normalised(_short_side(pixels, protocol.short_side), extractor)[None]
        size = (truth.shape[0], truth.shape[1])
        said = with_flip(lambda x: slide(logits, x, crop, stride)[0], image, size, flip=protocol.flip_tta)[0].argmax(0)
        total += areas(said, truth, classes, protocol.ignore)
        if len(found.shown) < SHOWN:
            found.shown.append((pixels, truth, said))
    left_out.check(max_bad_frac)
    found.scores = [_row("linear (sgd)", total)]
    _check_scored(found)
    return found


def upsampled_cross_entropy(logits: Tensor, truth: Tensor, *, ignore: int) -> Tensor:
    """Cross entropy of logits ``[N, C, h, w]`` resized to the truth ``[N, H, W]``; 0 when nothing is labelled."""
    large = resized(logits, (truth.shape[1], truth.shape[2]))
    labels = truth.long()
    summed = F.cross_entropy(large, labels, ignore_index=ignore, reduction="sum")
    return summed / (labels != ignore).sum().clamp_min(1)


def _short_side(pixels: Pixels, side: int) -> Tensor:
    height, width = pixels.shape[:2]
    scale = side / min(height, width) if side else 1.0
    return resized_pixels(pixels, (round(scale * height), round(scale * width)))


def _read(
    dense: DenseSet, index: int, classes: int, protocol: SegmentProtocol, left_out: LeftOut
) -> tuple[Pixels, Tensor] | None:
    try:
        pixels, mask = read_both(dense, index)
        return pixels, torch.from_numpy(prepared(mask, classes, protocol))
    except BadImage as error:
        left_out.add(dense.name(index), str(error))
        return None


def _labelled(
    maps: Maps, dense: DenseSet, classes: int, protocol: SegmentProtocol, left_out: LeftOut
) -> tuple[Maps, Tensor]:
    """Images whose mask can be used, and the masks ``[N, H, W]`` at 8 numbers a patch side. DataError for none."""
    rows, labels = [], []
    size = tuple(LABELS_A_SIDE * side for side in maps.maps.shape[-2:])
    for row, index in enumerate(maps.index):
        if (pair := _read(dense, index, classes, protocol, left_out)) is not None:
            rows.append(row)
            labels.append(nearest(pair[1], (size[0], size[1])).int())
    if not rows:
        raise DataError(f"no training mask can be used: {left_out.rows[0]['reason']}")
    return Maps([maps.index[row] for row in rows], maps.maps[rows], maps.skipped), torch.stack(labels)


def _fit_cached(
    maps: Tensor,
    labels: Tensor,
    classes: int,
    protocol: SegmentProtocol,
    extractor: FeatureExtractor,
    counting: Counting,
) -> LinearHead:
    if protocol.probe == "ridge":
        shares, known = class_shares(_known(labels, protocol), (maps.shape[2], maps.shape[3]), classes)
        return fit_ridge_head(maps, shares, known)[0]

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        rows = chosen_rows(len(maps), protocol.batch, protocol.seed, step)
        return maps[rows].float(), labels[rows]

    make = partial(LinearHead, [maps.shape[1]], classes, dropout=protocol.dropout)
    loss = partial(upsampled_cross_entropy, ignore=protocol.ignore)
    head = fit_head(make, batch_at, loss, protocol.fit, extractor.device, counting)
    assert isinstance(head, LinearHead)
    return head


def _probabilities(head: LinearHead, patches: Tensor, size: tuple[int, int]) -> Tensor:
    return resized(logits_of(head, patches)[None], size)[0].softmax(0)


def _neighbours(maps: Tensor, labels: Tensor, classes: int, protocol: SegmentProtocol) -> Scores:
    grid = (maps.shape[2], maps.shape[3])
    shares, known = class_shares(_known(labels, protocol), grid, classes)
    bank, of_bank = patch_bank(
        maps.flatten(2).mT.flatten(0, 1), shares.flatten(0, 1), known.flatten(), seed=protocol.seed
    )

    def vote(patches: Tensor, size: tuple[int, int]) -> Tensor:
        found = neighbour_votes(bank, of_bank, patches.flatten(1).T, k=protocol.knn)
        return resized(found.T.unflatten(1, grid)[None], size)[0]

    return vote


def _known(labels: Tensor, protocol: SegmentProtocol) -> Tensor:
    """Labels with -1 where there is none, also when ``ignore`` is a number below the classes."""
    return torch.where(labels == protocol.ignore, -1, labels)


def _row(name: str, total: Tensor) -> dict[str, Any]:
    per_class = class_scores(total)["iou"].tolist()
    return {"head": name, **summary(total), "iou_of_class": [None if v != v else v for v in per_class]}
