"""Labelled images of training, validation and test, checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinov3.data.errors import DataError
from dinov3.data.sources import Source, parse_dataset
from dinov3.data.storage.labels import matched_classes, names_in


@dataclass(frozen=True)
class LabelledSet:
    """A source whose every image has a class. ``names``: of the classes, when the source has them."""

    text: str  # as the config names it
    source: Source
    labels: NDArray[np.int64]  # [N], one an image of the source
    names: list[str] | None

    def __len__(self) -> int:
        return len(self.labels)


def open_labelled(text: str) -> LabelledSet:
    """The set that ``text`` names. DataError for an image without a class."""
    source = parse_dataset(text)
    found = [source.label(index) for index in range(len(source))]
    missing = next((index for index, label in enumerate(found) if label is None), None)
    if missing is not None:
        raise DataError(
            f"{text}: {source.name(missing)} has no label: fine-tuning needs class subfolders or labels for every image"
        )
    return LabelledSet(text, source, np.array(found, dtype=np.int64), names_in(source))


def open_training(text: str, classes: int | None) -> tuple[LabelledSet, int]:
    """The training set and the number of classes (``classes``, or one more than the largest label).

    DataError when fewer than two classes occur, or a label is not below ``classes``.
    """
    train = open_labelled(text)
    largest = int(train.labels.max())
    number = classes or max(largest + 1, len(train.names or ()))
    checked_labels(train, number, "train.classes")
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{text}: all {len(train):,} images are of class {largest}: there is nothing to tell apart")
    return train, number


def open_beside(text: str, key: str, train: LabelledSet, classes: int) -> LabelledSet:
    """Validation or test images with the numbers that ``train`` gives its classes; by name.

    DataError for a class that training does not have, and when only one class occurs.
    """
    other = with_numbers_of(open_labelled(text), train.names)
    checked_labels(other, classes, key)
    if len(np.unique(other.labels)) < 2:
        raise DataError(
            f"{key}: {text}: all {len(other):,} images are of class {other.labels[0]}: give images of every class"
        )
    return other


def same_images(first: LabelledSet, second: LabelledSet) -> bool:
    """Whether two sets are the same images, whatever they are called."""
    return first.source.identity().content == second.source.identity().content


def with_numbers_of(other: LabelledSet, names: list[str] | None) -> LabelledSet:
    """A set with the numbers that classes have in ``names``. DataError for a class that is not there."""
    return LabelledSet(other.text, other.source, matched_classes(other.text, other.labels, other.names, names), names)


def checked_labels(labelled: LabelledSet, classes: int, key: str) -> LabelledSet:
    """The set; DataError when a label is not below ``classes``, a number that ``key`` gives."""
    outside = np.flatnonzero((labelled.labels < 0) | (labelled.labels >= classes))
    if len(outside):
        first = int(outside[0])
        raise DataError(
            f"{labelled.text}: {labelled.source.name(first)} has class {labelled.labels[first]}, {key} allows 0 to "
            f"{classes - 1} ({len(outside):,} such images): give the number of classes, or other images"
        )
    return labelled
