"""A set is scored in its own order, whoever does which part; what cannot be used is counted."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from torch import nn

from dinov3.data.errors import BadImage, DataError, TooManyBadSamples
from dinov3.finetune.headed import over as module
from dinov3.finetune.headed.over import check_sample, over


def read(index: int) -> int:
    if index == 3:
        raise BadImage("torn")
    return 10 * index


def scored(*, shared: bool = True, most_bad: float = 0.5, threads: int = 2) -> tuple[list[int], list[str]]:
    model = nn.Linear(1, 1).train()
    seen: list[bool] = []
    found, bad = over(
        model, range(6), read, lambda value: (seen.append(model.training), value)[1], str,
        shared=shared, threads=threads, most_bad=most_bad,
    )  # fmt: skip
    assert model.training
    assert not any(seen)
    return found, [f"{one.name}: {one.reason}" for one in bad]


def test_in_order_with_the_bad_ones_named() -> None:
    assert scored() == scored(shared=False, threads=1) == ([0, 10, 20, 40, 50], ["3: torn"])


def test_two_processes_have_the_whole_in_the_order_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[object, object]] = []  # what the first process has found, while the second one asks for the whole

    def gathered(part: tuple[object, object]) -> list[tuple[object, object]]:
        sent.append(part)
        return sent

    monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(module, "gather_objects", gathered)
    for rank in (0, 1):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        found = scored()
    assert found == ([0, 10, 20, 40, 50], ["3: torn"])


def test_too_many_end_it_with_one_line() -> None:
    with pytest.raises(TooManyBadSamples, match="1 of 6 images cannot be used, the first 3: torn"):
        scored(most_bad=0.1)
    with pytest.raises(DataError, match=r"DATA: 1 of 6 images cannot be used, the first 3: torn"):
        check_sample(6, read, str, "DATA", 0.1)
    check_sample(6, read, str, "DATA", 0.5)


@pytest.mark.parametrize(("bad", "refused"), [(6, False), (7, True)])
def test_of_a_sample_chance_is_allowed_for_and_of_a_whole_set_none(bad: int, refused: bool) -> None:
    def read(index: int) -> None:
        if (
            index % 10 == 0 and index < 10 * bad
        ):  # every tenth of 2,000 is looked at: ``bad`` of 200, where 2 are allowed
            raise BadImage("torn")

    with pytest.raises(DataError, match="7 of 200") if refused else nullcontext():
        check_sample(2000, read, str, "DATA", 0.01)
    with pytest.raises(DataError, match="1 of 60"):
        check_sample(60, read_one, str, "DATA", 0.01)


def read_one(index: int) -> None:
    if index == 59:
        raise BadImage("torn")
