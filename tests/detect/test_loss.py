"""The loss: the mean over images, least where the truth is said, and without a word about ignored places."""

from __future__ import annotations

import torch

from dinov3.detect.assign import assign, centerness
from dinov3.detect.head import DetectHead, Said
from dinov3.detect.loss import detect_loss
from dinov3.detect.views import Truth

MAPS = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
TRUTHS = [
    Truth(torch.tensor([[4.0, 4, 28, 28], [0, 0, 14, 12]]), torch.tensor([1, 0]), torch.tensor([False, False])),
    Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)),
]


def head() -> DetectHead:
    made = DetectHead(16, 3, patch=8, upscale=1, levels=3, width=8, depth=1)
    made.init_weights(torch.Generator().manual_seed(1))
    return made


def perfect(said: Said, truth: Truth, strides: list[float]) -> Said:
    """The truth of one view, as confidently as can be."""
    found = assign(truth, said.places, said.levels, strides)
    positive = found.box >= 0
    classes = torch.full_like(said.classes, -20.0)
    classes[0, positive, truth.classes[found.box[positive]]] = 20.0
    sides = torch.where(positive[:, None], found.sides, said.sides[0])[None]
    central = torch.full_like(said.centres, -20.0)
    central[0, positive] = torch.logit(centerness(found.sides[positive]), eps=1e-6)
    return Said(classes, sides, central, said.places, said.levels)


def test_a_batch_costs_the_mean_of_its_images() -> None:
    made = head()
    whole = detect_loss(made(MAPS), TRUTHS, made.strides)
    parts = [detect_loss(made(MAPS[i : i + 1]), TRUTHS[i : i + 1], made.strides) for i in (0, 1)]
    for name, value in whole.items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2)


def test_the_truth_costs_almost_nothing() -> None:
    made = head()
    said = made(MAPS[:1])
    best = perfect(said, TRUTHS[0], made.strides)
    cost, usual = detect_loss(best, TRUTHS[:1], made.strides), detect_loss(said, TRUTHS[:1], made.strides)
    assert cost["class_loss"] < 1e-3 < usual["class_loss"]
    assert cost["box_loss"] < 1e-4 < usual["box_loss"]
    assert cost["centre_loss"] < usual["centre_loss"]  # the entropy of the centerness stays


def test_an_image_without_boxes_has_a_loss_of_classes_only_and_finite_gradients() -> None:
    made = head()
    terms = detect_loss(made(MAPS[1:]), TRUTHS[1:], made.strides)
    assert terms["class_loss"] > 0
    assert terms["box_loss"] == terms["centre_loss"] == 0
    torch.stack([*terms.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


def test_what_is_said_inside_an_ignored_box_costs_nothing() -> None:
    made = head()
    said = made(MAPS[:1])
    ignored = Truth(torch.tensor([[0.0, 0, 32, 32]]), torch.tensor([1]), torch.tensor([True]))
    loud = Said(said.classes + 9, said.sides, said.centres, said.places, said.levels)
    assert detect_loss(loud, [ignored], made.strides)["class_loss"] == 0
    assert detect_loss(loud, TRUTHS[1:], made.strides)["class_loss"] > 1
