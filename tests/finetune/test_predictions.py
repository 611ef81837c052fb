from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinov3.finetune.measures.metrics import MetricError
from dinov3.finetune.predictions import Predicted, read_predictions, write_predictions


def found(seed: int, n: int = 5) -> Predicted:
    random = np.random.default_rng(seed)
    return Predicted(random.random(n), random.integers(0, 2, n), np.arange(n))


def test_a_run_written_twice_replaces_its_rows_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_predictions(path, "a", "test", found(0))
    write_predictions(path, "b, with comma", "test", found(1))
    write_predictions(path, "a", "val", found(2))
    once = path.read_text()
    write_predictions(path, "a", "test", found(3))
    write_predictions(path, "a", "test", found(0))
    assert sorted(path.read_text().splitlines()) == sorted(once.splitlines())
    table = read_predictions(path)
    assert set(table) == {("a", "test"), ("b, with comma", "test"), ("a", "val")}
    assert np.array_equal(table["a", "test"].p, found(0).p)  # bit for bit
    assert np.array_equal(table["a", "val"].y, found(2).y)
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]


def test_images_have_names_and_tables_of_earlier_programs_are_read_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("run,split,index,label,p_1\nold,test,7,1,0.25\n")
    assert read_predictions(path)["old", "test"].sample.tolist() == [7]
    names = ["a.png", "b, c.png", "d.png", "e.png", "f.png"]
    write_predictions(path, "new", "test", found(0)._replace(names=names))
    table = read_predictions(path)
    assert (table["old", "test"].p.tolist(), table["old", "test"].names) == ([0.25], [""])
    assert table["new", "test"].names == names
    assert path.read_text().splitlines()[:2] == ["run,split,index,label,p_1,image", "old,test,7,1,0.25,"]


def test_many_classes_have_a_column_each(tmp_path: Path) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), 4)
    write_predictions(tmp_path / "p.csv", "a", "test", Predicted(p, np.array([0, 1, 2, 1]), np.arange(4)))
    assert np.array_equal(read_predictions(tmp_path / "p.csv")["a", "test"].p, p)
    with pytest.raises(MetricError, match="its columns are"):
        write_predictions(tmp_path / "p.csv", "b", "test", found(0))


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "run,split,index,label,p_1\na,t,0\n", "run,split,index,label,p_1\na,t,0,1,x\n"]
)
def test_other_tables_are_refused_and_stay_as_they_are(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(MetricError, match=r"p\.csv: "):
        read_predictions(path)
    assert path.read_text() == text
