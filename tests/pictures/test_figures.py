from __future__ import annotations

from dinov3.eval.online.dense import FEATURES, HEADS
from dinov3.pictures.figures import FIGURES, first_to_last, plans


def test_a_figure_is_told_from_its_first_to_its_last_value_as_people_read_it() -> None:
    rows: list[dict[str, object]] = [{"step": 0}, {"seg_miou": 0.1, "depth_rmse": 12.3456}, {"seg_miou": None}]
    rows.append({"seg_miou": 0.25, "depth_rmse": 9.0})
    assert first_to_last("seg_miou", rows, " to ") == "10.0 to 25.0 %"
    assert first_to_last("depth_rmse", rows, " → ") == "12.35 → 9 m"
    assert first_to_last("rankme", [{"rankme": 3.0}], " to ") == "3 to 3"
    assert first_to_last("match_recall", rows, " to ") is None


def test_every_dense_figure_has_a_meaning_and_a_place_in_a_panel() -> None:
    drawn = {key for panel in plans([], []) for key in panel.keys if panel.evaluations}
    for key in (*HEADS.values(), *FEATURES.values(), "depth_rmse"):
        assert FIGURES[key].meaning
        assert key in drawn
