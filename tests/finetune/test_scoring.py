"""Scores of a set: no batch, order or number of threads changes them; test-time views are a group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3.data.decode import USUAL
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.engine.precision import resolve
from dinov3.finetune.classifier import Classifier, dihedral
from dinov3.finetune.labelled import LabelledSet, open_labelled
from dinov3.finetune.scoring import Scorer
from dinov3.finetune.views import Views
from tests.finetune import tiny

VIEWS = Views(16, (0.5,) * 3, (0.25,) * 3, USUAL, preset="histology")
PRECISION = resolve("fp32", torch.device("cpu"))


@pytest.fixture
def labelled(at: Path) -> LabelledSet:
    return open_labelled(f"PCam:root={at}/pcam:split=valid")


@pytest.fixture
def classifier() -> Classifier:
    made = Classifier(tiny.backbone(), 2, "cls")
    torch.manual_seed(0)
    made.head.reset_parameters()
    return made.train()


def scorer(batch: int = 5, threads: int = 2) -> Scorer:
    return Scorer(VIEWS, PRECISION, batch=batch, threads=threads)


def test_scores_do_not_depend_on_batch_or_threads_and_leave_the_mode(
    labelled: LabelledSet, classifier: Classifier
) -> None:
    one = scorer(24, 1).score(classifier, labelled, range(24))
    two = scorer(5, 3).score(classifier, labelled, range(24))
    np.testing.assert_allclose(one.logits, two.logits, rtol=0, atol=1e-6)
    assert np.array_equal(one.labels, labelled.labels)
    assert classifier.training
    some = scorer().score(classifier, labelled, [3, 8])
    np.testing.assert_allclose(some.logits, one.logits[[3, 8]], rtol=0, atol=1e-6)


def test_the_mean_over_eight_views_is_of_probabilities_and_the_same_for_a_turned_image(
    labelled: LabelledSet, classifier: Classifier
) -> None:
    found = scorer().score(classifier, labelled, range(4), tta=True).probabilities()
    cuts = torch.stack([VIEWS.cut(labelled.source, i, None) for i in range(4)])
    images = VIEWS.settled().finish(cuts, None)
    for turned in (images, images.rot90(1, (-2, -1)), images.flip(-2)):
        with torch.no_grad():
            each = [classifier.eval()(view).double().softmax(1)[:, 1] for view in dihedral(turned)]
        np.testing.assert_allclose(found, torch.stack(each).mean(0).numpy(), rtol=0, atol=1e-6)


def test_a_temperature_keeps_the_order_and_many_classes_keep_their_columns(
    labelled: LabelledSet, classifier: Classifier
) -> None:
    one = scorer().score(classifier, labelled, range(24))
    assert np.array_equal(np.argsort(one.probabilities()), np.argsort(one.probabilities(3.0)))
    three = scorer().score(Classifier(tiny.backbone(), 3, "cls").eval(), labelled, range(6))
    assert three.probabilities().shape == (6, 3)


def test_images_that_cannot_be_read_are_left_out_until_there_are_too_many(
    labelled: LabelledSet, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = VIEWS.cut

    def cut(self: Views, source: object, index: int, draws: None) -> torch.Tensor:
        if index == 3:
            raise BadImage("spoilt")
        return read(labelled.source, index, draws)

    monkeypatch.setattr(Views, "cut", cut)
    lenient = Scorer(VIEWS, PRECISION, batch=5, threads=1, max_bad_frac=0.1)
    found = lenient.score(classifier, labelled, range(24))
    assert 3 not in found.images
    assert len(found.logits) == len(found.labels) == 23
    assert [bad.reason for bad in found.skipped] == ["spoilt"]
    with pytest.raises(TooManyBadSamples, match=r"1 of 24 images are unreadable.*spoilt"):
        scorer().score(classifier, labelled, range(24))
