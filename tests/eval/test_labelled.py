from __future__ import annotations

import pytest
import torch

from dinov3.data.errors import DataError
from dinov3.eval.labelled import Labelled, hold_out, same_classes


def labelled(labels: list[int], classes: list[str] | None) -> Labelled:
    return Labelled(torch.arange(float(len(labels)))[:, None], torch.tensor(labels), classes)


def test_classes_are_matched_by_name_when_the_test_set_lacks_one() -> None:
    train = labelled([0, 1, 2], ["cat", "dog", "emu"])
    test = same_classes(train, labelled([0, 1, 1], ["cat", "emu"]))
    assert test.labels.tolist() == [0, 2, 2]


def test_a_class_that_was_never_trained_is_an_error() -> None:
    with pytest.raises(DataError, match="owl"):
        same_classes(labelled([0, 1], ["cat", "dog"]), labelled([0, 1], ["cat", "owl"]))
    with pytest.raises(DataError, match="7"):
        same_classes(labelled([0, 1], None), labelled([0, 7], None))


def test_every_fifth_image_of_each_class_is_held_out() -> None:
    everything = labelled([0] * 10 + [1] * 5 + [2] * 3, None)
    train, test = hold_out(everything)
    assert test.features[:, 0].tolist() == [4, 9, 14]
    assert sorted([*train.features[:, 0].tolist(), *test.features[:, 0].tolist()]) == list(range(18))
    with pytest.raises(DataError, match="--test"):
        hold_out(labelled([0, 0, 1, 1], None))
