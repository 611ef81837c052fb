"""Labelled images of training, validation and test, checked before anything is built."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dinov3.data.bad_samples import BadSample, left_out_note
from dinov3.data.decode import Stored, read_stored
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import Source, parse_dataset
from dinov3.data.storage.labels import every_label, matched_classes, names_in
from dinov3.distributed import context
from dinov3.system.bars import Bar

# Images of two sets that are compared one by one, a few seconds: as files have them, and as pixels, which may be drawn.
MOST_ENCODED, MOST_PIXELS = 100_000, 5_000
SHOWN = 5  # classes in a line


@dataclass(frozen=True)
class LabelledSet:
    """A source whose every image has a class. ``names``: of the classes, when the source has them."""

    text: str  # as the config names it
    source: Source
    labels: NDArray[np.int64]  # [N], one an image of the source
    names: list[str] | None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def contents(self) -> list[bytes]:
        """A hash of every image as it is stored; b"" of one that cannot be read, which is counted where images are used."""
        found = []
        with Bar(len(self), about=f"comparing {self.text}", unit="images", shown=context.is_main()) as bar:
            for index in range(len(self)):
                stored = _stored(self, index)
                found.append(b"" if stored is None else _digest(stored))
                bar.update()
        return found


def open_labelled(text: str) -> LabelledSet:
    """The set that ``text`` names. DataError for an image without a class."""
    source = parse_dataset(text)
    found = every_label(source, text, "fine-tuning needs class subfolders or labels")
    return LabelledSet(text, source, np.array(found, dtype=np.int64), names_in(source))


def open_training(text: str, classes: int | None, positive: str | None = None) -> tuple[LabelledSet, int]:
    """The training set and the number of classes (``classes``, or one more than the largest label).

    ``positive``: the name, or the number, of the class that is to be number 1 of two. DataError when fewer than two classes
    occur, a label is not below ``classes``, or there is no such class.
    """
    train = open_labelled(text)
    largest = int(train.labels.max())
    number = classes or max(largest + 1, len(train.names or ()))
    checked_labels(train, number, "train.classes")
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{text}: all {len(train):,} images are of class {largest}: there is nothing to tell apart")
    return (train if positive is None else _with_positive(train, number, positive)), number


def _with_positive(train: LabelledSet, classes: int, positive: str) -> LabelledSet:
    """Two classes in the order that makes ``positive`` number 1."""
    names = (train.names or ["0", "1"])[:2]
    if classes != 2:
        raise DataError(f"train.positive: is for two classes, {train.text} has {classes}: leave it out")
    if positive not in names:
        raise DataError(f"train.positive: {positive!r}: the classes of {train.text} are {names[0]!r} and {names[1]!r}")
    if positive == names[1]:
        return train
    return LabelledSet(train.text, train.source, 1 - train.labels, names[::-1])


def open_beside(text: str, key: str, train: LabelledSet, classes: int) -> LabelledSet:
    """Validation or test images with the numbers that ``train`` gives its classes; by name.

    DataError for a class that training does not have, and when only one class occurs.
    """
    other = with_numbers_of(open_labelled(text), train.names, f"{key}: {text}")
    checked_labels(other, classes, key)
    if len(np.unique(other.labels)) < 2:
        raise DataError(
            f"{key}: {text}: all {len(other):,} images are of class {other.labels[0]}: give images of every class"
        )
    return other


def same_images(first: LabelledSet, second: LabelledSet) -> bool:
    """Whether two sets are the same images, whatever they are called."""
    return first.source.identity().content == second.source.identity().content


def shared_with(before: LabelledSet, other: LabelledSet, key: str) -> list[str]:
    """A note on images of ``other`` that ``before`` has, too; DataError when it has all of them."""
    shared = len(other) if same_images(before, other) else shared_images(before, other)
    if shared == len(other):
        raise DataError(f"{key}: {other.text}: holds the images of {before.text}: give others")
    if not shared:
        return []
    known = f"{shared:,} of {len(other):,} images of {key} are in {before.text}, too"
    return [f"note: {known}: its scores will be better than those of new images"]


def shared_images(first: LabelledSet, second: LabelledSet) -> int:
    """How many images of ``second`` are stored byte for byte in ``first``, too, under any name and in any kind of store.

    All are read: of sets that are too large for it, 0.
    """
    stored = {type(found) for one in (first, second) if (found := _stored(one, 0)) is not None}
    if len(first) + len(second) > (MOST_ENCODED if stored <= {bytes} else MOST_PIXELS):
        return 0
    known = {content for content in first.contents if content}
    return sum(content in known for content in second.contents)


def classes_missing(train: LabelledSet, other: LabelledSet, key: str) -> list[str]:
    """A note when a class of the training images is not among ``other``."""
    missing = sorted(set(train.labels.tolist()) - set(other.labels.tolist()))
    if not missing:
        return []
    said = ", ".join(repr(train.names[one]) if train.names else str(one) for one in missing[:SHOWN])
    return [f"note: {key} has no image of {said}{', …' * (len(missing) > SHOWN)}: its scores are of the other classes"]


def unreadable(labelled: LabelledSet, bad: Sequence[BadSample], kept: NDArray[np.int64]) -> list[str]:
    """A note on images of ``labelled`` that no score is of, and on the classes they are of; ``kept``: the others' places."""
    lost = np.delete(labelled.labels, kept)
    classes, counts = np.unique(lost, return_counts=True)
    rows = sorted(zip(counts.tolist(), classes.tolist(), strict=True), reverse=True)[:SHOWN]
    said = ", ".join(
        f"{count:,} of {int((labelled.labels == label).sum()):,} of {(labelled.names[label] if labelled.names else label)!r}"
        for count, label in rows
    )
    return left_out_note(bad, len(labelled), labelled.text, f" ({said})")


def _digest(stored: Stored) -> bytes:
    data = stored if isinstance(stored, bytes) else stored.tobytes() + repr(stored.shape).encode()
    return hashlib.blake2b(data, digest_size=16).digest()


def _stored(labelled: LabelledSet, index: int) -> Stored | None:
    try:
        return read_stored(labelled.source, index)
    except BadImage:
        return None


def with_numbers_of(other: LabelledSet, names: list[str] | None, where: str = "") -> LabelledSet:
    """A set with the numbers that classes have in ``names``. DataError for a class that is not there.

    ``where``: who names the set, for messages.
    """
    return LabelledSet(
        other.text, other.source, matched_classes(where or other.text, other.labels, other.names, names), names
    )


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
