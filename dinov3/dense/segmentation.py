"""Segmentation areas in int64 and the scores made of their sums; windows and heads are in other files."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE = 255  # of mask files: a pixel that nobody has labelled
INTERSECT, UNION, PREDICTED, LABELLED = range(4)  # rows of an area table
MEANS = {  # name of the mean -> name of the score of each class, in the order of a summary
    "mIoU": "iou",
    "mAcc": "acc",
    "aAcc": None,  # of all pixels: not a mean over classes
    "mDice": "dice",
    "mFscore": "fscore",
    "mPrecision": "precision",
    "mRecall": "recall",
}


def without_zero(label: Tensor, ignore: int = IGNORE) -> Tensor:
    """ADE20K's masks, where 0 means unlabelled: 0 becomes ``ignore``, l becomes l - 1, ``ignore`` stays. int64."""
    wide = label.long()
    return torch.where((wide == 0) | (wide == ignore), torch.full_like(wide, ignore), wide - 1)


def areas(prediction: Tensor, label: Tensor, classes: int, ignore: int = IGNORE) -> Tensor:
    """``[4, classes]`` int64: pixels of the intersection, union, prediction and label of each class, of one image.

    Ignored pixels count nowhere. A number outside [0, classes) falls out of its own histogram only, as in DINOv3's
    code. int64, because float32 stops counting at 16.8 million pixels: 64 images of 512 x 512.

    Raises ValueError when the two differ in shape.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and label {list(label.shape)} differ in shape")
    valid = label != ignore
    said, true = prediction[valid].long(), label[valid].long()
    intersect = _histogram(said[said == true], classes)
    predicted, labelled = _histogram(said, classes), _histogram(true, classes)
    return torch.stack([intersect, predicted + labelled - intersect, predicted, labelled])


def _histogram(values: Tensor, classes: int) -> Tensor:
    return torch.bincount(values[(values >= 0) & (values < classes)], minlength=classes)


def class_scores(total: Tensor) -> dict[str, Tensor]:
    """Scores ``[classes]`` float64 of areas ``[4, classes]`` that are summed over all images.

    NaN is a score that is 0 / 0. The F-score is the harmonic mean of precision and recall, so a class that is never
    predicted has Dice 0 but no F-score: the mean F-score can exceed the mean Dice.
    """
    intersect, union, predicted, labelled = total.double()
    precision, recall = intersect / predicted, intersect / labelled
    return {
        "iou": intersect / union,
        "acc": recall,
        "dice": 2 * intersect / (predicted + labelled),
        "fscore": 2 * precision * recall / (precision + recall),
        "precision": precision,
        "recall": recall,
    }


def summary(total: Tensor) -> dict[str, float]:
    """``MEANS`` of summed areas ``[4, classes]``; classes whose score is NaN are left out of their mean."""
    scores = class_scores(total)
    all_pixels = total[INTERSECT].sum().double() / total[LABELLED].sum().double()
    return {mean: float(all_pixels if name is None else scores[name].nanmean()) for mean, name in MEANS.items()}


def confusion(predictions: Sequence[Tensor], labels: Sequence[Tensor], classes: int, ignore: int = IGNORE) -> Tensor:
    """``[classes, classes]`` int64: pixels of label row said to be column, on the CPU.

    Numbers outside [0, classes) are left out.
    """
    table = torch.zeros(classes * classes, dtype=torch.int64)
    for said, true in zip(predictions, labels, strict=True):
        inside = (true != ignore) & (true >= 0) & (true < classes) & (said >= 0) & (said < classes)
        places = true[inside].long() * classes + said[inside].long()
        table += torch.bincount(places, minlength=classes * classes).cpu()
    return table.view(classes, classes)
