"""Features with classes, and whether two sets mean the same by them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dinov3.data.bad_samples import BadSample, left_out_note
from dinov3.data.errors import DataError
from dinov3.data.sources import Source
from dinov3.data.storage.labels import every_label, matched_classes, names_in, no_such_classes
from dinov3.features.cache import FeatureKind, cached_features
from dinov3.features.extract import FeatureExtractor

HOLD_OUT = 5  # without a test set, every fifth image of each class is one


@dataclass(frozen=True)
class Labelled:
    """Vectors ``features [N, D]`` float32, ``labels [N]`` int64, and the classes' names when the source has them."""

    features: Tensor
    labels: Tensor
    classes: list[str] | None
    notes: list[str] = field(default_factory=list)  # on images that could not be read


def labelled_features(
    extractor: FeatureExtractor,
    source: Source,
    text: str,
    kind: FeatureKind,
    cache: Path,
    *,
    max_bad_frac: float = 0.01,
) -> Labelled:
    """Features of a labelled source, from ``cache`` when they are there. DataError for images without a label,
    TooManyBadSamples when more than ``max_bad_frac`` of them cannot be read.
    """
    every_label(source, text, "evaluation needs class subfolders or labels")
    found = cached_features(extractor, source, cache, kind, max_bad_frac=max_bad_frac)
    features, labels = found.pooled()
    assert labels is not None
    bad = [BadSample(**row) for row in found.manifest["skipped"]]
    return Labelled(features, labels, names_in(source), left_out_note(bad, len(source), text))


def same_classes(train: Labelled, test: Labelled) -> Labelled:
    """``test`` with the numbers ``train`` gives its classes, matched by name.

    Raises DataError for classes that only the test set has: none of their images could ever be right.
    """
    labels = torch.from_numpy(matched_classes("the test set", test.labels.numpy(), test.classes, train.classes))
    one_has_numbers = train.classes is None or test.classes is None
    if one_has_numbers and (new := sorted(set(labels.tolist()) - set(train.labels.tolist()))):
        raise no_such_classes("the test set", new)
    return Labelled(test.features, labels, train.classes)


def in_both(train: Labelled, test: Labelled) -> list[str]:
    """A note on test images whose features are those of a training image to the last bit: the same image, most likely."""
    known = {hash(row.tobytes()) for row in train.features.numpy()}  # not the rows: of ImageNet they are 2 GB again
    shared = sum(hash(row.tobytes()) in known for row in test.features.numpy())
    if not shared:
        return []
    return [
        f"note: {shared:,} of {len(test.labels):,} test images have exactly the features of a training image: the same images?"
    ]


def hold_out(everything: Labelled) -> tuple[Labelled, Labelled]:
    """(train, test) of one set: every fifth image of each class is for the test."""
    place = torch.zeros(len(everything.labels), dtype=torch.int64)
    for label in everything.labels.unique():
        rows = (everything.labels == label).nonzero()[:, 0]
        place[rows] = torch.arange(len(rows))
    test = place % HOLD_OUT == HOLD_OUT - 1
    if not test.any():
        raise DataError(f"no class has {HOLD_OUT} images: give --test")
    parts = [Labelled(everything.features[m], everything.labels[m], everything.classes) for m in (~test, test)]
    return parts[0], parts[1]
