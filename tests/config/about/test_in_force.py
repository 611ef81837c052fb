from __future__ import annotations

from pathlib import Path

from dinov3.config.about.in_force import BEGAN, CHANGES, in_force
from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.runs.folder import CONFIG_HISTORY, CONFIG_JSON


def test_its_files_have_the_names_that_runs_give_them() -> None:
    assert (BEGAN, CHANGES) == (CONFIG_JSON, CONFIG_HISTORY)


def test_the_newest_change_counts_and_a_run_without_one_has_what_it_began_with(tmp_path: Path) -> None:
    began = {"optim": {"lr": 0.5}}
    assert in_force(began, tmp_path) == {**to_dict(Config()), "optim": {**to_dict(Config())["optim"], "lr": 0.5}}
    (tmp_path / CHANGES).mkdir()
    for number, rate in ((9, 0.1), (10, 0.2)):
        (tmp_path / CHANGES / f"{number:04d}.yaml").write_text(to_yaml(load_config(None, [f"optim.lr={rate}"])))
    assert in_force(began, tmp_path)["optim"]["lr"] == 0.2
