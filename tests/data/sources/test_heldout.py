from __future__ import annotations

import pickle

import pytest
import torch

from dinov3.data.errors import DataError
from dinov3.data.sources import parse_dataset
from dinov3.eval.labelled import Labelled, hold_out

WHOLE = "Synthetic:n=60:size=16"
INSIDE = WHOLE.replace(":", "\\:")


def test_the_parts_are_those_that_eval_holds_out() -> None:
    whole = parse_dataset(WHOLE)
    train, test = (parse_dataset(f"HeldOut:of={INSIDE}:part={part}") for part in ("train", "test"))
    assert len(train) + len(test) == 60
    labels = torch.tensor([whole.label(index) for index in range(60)])
    numbers = torch.arange(60)[:, None].float()
    for part, expected in zip((train, test), hold_out(Labelled(numbers, labels, None)), strict=True):
        wanted = [whole.name(int(index)) for index in expected.features[:, 0]]
        assert [part.name(index) for index in range(len(part))] == wanted
        assert [part.label(index) for index in range(len(part))] == expected.labels.tolist()
        assert (pickle.loads(pickle.dumps(part)).read(0) == part.read(0)).all()
    assert train.identity().content != test.identity().content
    assert train.version() != test.version()
    assert train.fingerprint() != test.fingerprint()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("HeldOut:of=Synthetic\\:n=3", "no class has 5 images"),
        ("HeldOut:of=Synthetic\\:n=60:part=val", "part=val is not one of train, test"),
        ("HeldOut:part=test", "of= is missing"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_dataset(text)
