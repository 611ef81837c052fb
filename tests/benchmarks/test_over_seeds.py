"""Tables over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.over_seeds import difference, measure_missing, spread, table_of_arms


def test_differences_are_paired_by_seed_with_students_interval() -> None:
    found = difference({0: 7.0, 1: 7.5, 2: 8.0, 9: 100.0}, {0: 8.0, 1: 9.0, 2: 10.0})
    assert found is not None
    assert found[0] == pytest.approx(-1.5)
    assert found[1] == pytest.approx(4.30265 * 0.5 / 3**0.5, rel=1e-5)
    assert difference({0: 1.0}, {0: 2.0}) is None


def test_one_value_has_no_spread_and_none_is_an_empty_cell() -> None:
    assert spread([0.5, 0.7], "+") == "+0.6000 ± 0.1414"
    assert spread([0.5]) == "0.5000"
    assert spread([]) == ""


def test_every_arm_has_a_line_and_its_difference_another() -> None:
    base = [{"arm": "without", "seed": seed, "rmse": 8.0 + seed, "knn": 0.5} for seed in range(3)]
    other = [{"arm": "with", "seed": seed, "rmse": 7.0 + 0.5 * seed} for seed in range(3)]
    lines = table_of_arms([*base, *other], {"rmse": "RMSE", "knn": "k-NN"}, ["with"], "without").splitlines()
    assert lines[0] == "| | seeds | RMSE | k-NN |"
    assert lines[2] == "| without | 3 | 9.0000 ± 1.0000 | 0.5000 ± 0.0000 |"
    assert lines[3] == "| with | 3 | 7.5000 ± 0.5000 |  |"
    assert lines[4] == "| with - without | 3 | -1.5000 [-2.7421, -0.2579] |  |"


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "results.jsonl", []

    def measure(arm: str, seed: int) -> dict[str, float]:
        asked.append((arm, seed))
        return {"knn": seed / 10}

    for seeds in ([0], [0, 1]):
        rows = measure_missing(path, {"data": "d"}, ["a", "b"], seeds, measure)
    assert asked == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [(row["arm"], row["seed"], row["knn"], row["data"]) for row in rows[1:3]] == [
        ("b", 0, 0, "d"),
        ("a", 1, 0.1, "d"),
    ]


def test_results_of_other_settings_and_names_that_clash_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="knn is a setting and a measurement"):
        measure_missing(path, {"knn": 20}, ["a"], [0], lambda arm, seed: {"knn": 0.5})
    assert not path.exists()
    measure_missing(path, {"data": "d"}, ["a"], [0], lambda arm, seed: {"knn": 0.5})
    with pytest.raises(SystemExit, match="has results of other settings: choose another --out"):
        measure_missing(path, {"data": "e"}, ["a"], [0], lambda arm, seed: {"knn": 0.5})
