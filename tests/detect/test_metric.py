"""COCO's count is that of a brute-force one, on a few boxes."""

from __future__ import annotations

import numpy as np
import pytest

from dinov3.detect.boxes import boxes_of
from dinov3.detect.metric import Found, mean_average_precision

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))


def average_precision(found: list[Found], cls: int, threshold: float) -> float | None:
    """Of one class: greedy matching in the order of the scores, precision made monotone, read at 101 recalls."""
    taken = [np.zeros(len(one.truth), bool) for one in found]
    wanted = sum(int((one.truth.classes == cls).sum()) for one in found)
    rows = [(float(s), i, j) for i, one in enumerate(found) for j, s in enumerate(one.scores) if one.classes[j] == cls]
    hits = []
    for _, image, number in sorted(rows, key=lambda row: -row[0]):
        one = found[image]
        best, match = threshold, -1
        for k in range(len(one.truth)):
            if one.truth.classes[k] == cls and not taken[image][k]:
                overlap = iou(one.corners[number], one.truth.corners[k])
                if overlap >= best:
                    best, match = overlap, k
        if match >= 0:
            taken[image][match] = True
        hits.append(match >= 0)
    if not wanted:
        return None
    right = np.cumsum(hits) if hits else np.zeros(0)
    recall, precision = right / wanted, right / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= r].max(initial=0.0) for r in RECALLS]))


def made(seed: int, images: int = 4) -> list[Found]:
    """Boxes near the true ones, some of a wrong class, some of nothing."""
    random, found = np.random.default_rng(seed), []
    for _ in range(images):
        n = int(random.integers(1, 4))
        corner, sides = random.uniform(0, 60, (n, 2)), random.uniform(10, 40, (n, 2))
        true = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
        classes = random.integers(0, 2, n)
        noise = random.normal(0, 3, (n, 4)).astype(np.float32)
        said = np.concatenate([true + noise, true[:1] + 50]).astype(np.float32)
        named = np.concatenate([np.where(random.random(n) < 0.8, classes, 1 - classes), [0]])
        boxes = boxes_of(true.tolist(), classes.tolist(), [False] * n, sides.prod(1).tolist())
        found.append(Found(boxes, said, random.permutation(n + 1).astype(np.float32) / (n + 1), named.astype(np.int64)))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_a_count_by_hand(seed: int) -> None:
    found = made(seed)
    each = {t: [average_precision(found, cls, t) for cls in (0, 1)] for t in THRESHOLDS}
    means = {t: np.mean([value for value in values if value is not None]) for t, values in each.items()}
    score = mean_average_precision(found, 2)
    assert score.scores["mAP"] == pytest.approx(np.mean([*means.values()]), abs=1e-9)
    assert score.scores["mAP50"] == pytest.approx(means[0.5], abs=1e-9)
    assert 0 < means[0.5] < 1


def test_truth_said_again_is_one_and_nothing_said_is_zero() -> None:
    found = made(0)
    same = [
        Found(one.truth, one.truth.corners, np.ones(len(one.truth), np.float32), one.truth.classes) for one in found
    ]
    assert mean_average_precision(same, 2).scores["mAP"] == pytest.approx(1)
    empty = [Found(one.truth, one.corners[:0], one.scores[:0], one.classes[:0]) for one in found]
    assert mean_average_precision(empty, 2).scores["mAP"] == 0


def test_a_crowd_is_neither_wanted_nor_wrong_and_a_class_without_a_box_is_in_no_mean() -> None:
    truth = boxes_of([[0, 0, 10, 10], [20, 20, 60, 60]], [0, 0], [False, True], [100, 1600])
    said = np.array([[0, 0, 10, 10], [21, 21, 40, 40], [30, 30, 50, 50]], np.float32)
    score = mean_average_precision([Found(truth, said, np.array([0.5, 0.9, 0.8], np.float32), np.zeros(3, int))], 2)
    assert score.scores["mAP"] == pytest.approx(1)
    assert score.of_class == [pytest.approx(1), None]
    assert score.scores["mAP_large"] is None
