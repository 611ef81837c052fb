"""Every line of the tables names a class of the kind the table is for."""

from __future__ import annotations

import pytest

from dinov3.engine.look import Look
from dinov3.eval.online import looks
from dinov3.objectives import table as objectives
from dinov3.objectives.base import Objective
from dinov3.system.tables import read_table
from dinov3.teachers import table as teachers
from dinov3.teachers.base import Teacher

TABLES = [
    (objectives.__name__, objectives.OBJECTIVES, Objective),
    (teachers.__name__, teachers.TEACHERS, Teacher),
    (looks.__name__, looks.LOOKS, Look),
]


@pytest.mark.parametrize(("table", "entries", "kind"), TABLES, ids=lambda value: value if type(value) is str else "")
def test_a_table_has_classes_of_its_kind_in_its_order_each_once(
    table: str, entries: tuple[str, ...], kind: type
) -> None:
    classes = read_table(table, entries)
    assert [f"{c.__module__.rpartition('.')[2]}.{c.__name__}" for c in classes] == list(entries)
    assert all(issubclass(c, kind) for c in classes)
    assert len(set(entries)) == len(entries)


def test_a_class_that_is_not_there_is_an_error() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        read_table(objectives.__name__, ["koleo.Nothing"])
