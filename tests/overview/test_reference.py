from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.config.dump import to_yaml
from dinov3.config.load import load_config
from dinov3.features.errors import FeatureError
from dinov3.overview.reference import find_reference, mean_of_runs, shipped_references, write_reference
from tests.overview.test_runs import a_run


def seeds(tmp_path: Path, *finals: float, lr: float = 0.1) -> list[Path]:
    """Runs of one config that end at these accuracies."""
    paths = []
    for seed, final in enumerate(finals):
        path = a_run(tmp_path / f"seed-{seed}", [3.0, 2.0 + seed], knn=[0.1, final], lr=lr)
        config = json.loads((path / "config.json").read_text())
        config["train"]["seed"] = seed
        (path / "config.json").write_text(json.dumps(config))
        paths.append(path)
    return paths


def test_a_reference_is_the_mean_over_seeds_without_what_belongs_to_the_machine(tmp_path: Path) -> None:
    found = mean_of_runs("tiny", seeds(tmp_path, 0.3, 0.5), {"commit": "abc"})
    assert found["seeds"] == [0, 1]
    assert found["rows"] == [{"iteration": 0, "total_loss": 3.0}, {"iteration": 1, "total_loss": 2.5}]
    assert found["evaluations"] == [{"step": 0, "knn_accuracy": 0.1}, {"step": 1, "knn_accuracy": 0.4}]
    assert found["config"]["optim.lr"] == 0.1
    assert not [key for key in found["config"] if "seed" in key or "output_dir" in key]


def test_a_run_is_laid_over_the_curves_of_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.json"
    write_reference(mean_of_runs("tiny", seeds(tmp_path, 0.3, 0.5), {}), file)
    assert file.with_suffix(".png").stat().st_size > 10_000
    own, page = a_run(tmp_path / "own", [3.0, 1.0], knn=[0.1, 0.45], lr=0.2), tmp_path / "page.html"
    assert cli.main(["compare", str(own), "--reference", str(file), "--out", str(page)]) == 0
    head, reference, run = capsys.readouterr().out.splitlines()[:3]
    assert head.startswith("run")
    assert reference.split()[:6] == ["tiny,", "mean", "of", "2", "seeds", "reference"]
    assert "10 → 45 % (+5)" in run
    assert "<code>optim.lr</code></td><td>0.1</td><td>0.2</td>" in page.read_text()
    assert "wandb" not in page.read_text()


def test_a_reference_has_the_config_its_runs_ended_with(tmp_path: Path) -> None:
    (run,) = seeds(tmp_path, 0.3)
    (run / "config_history").mkdir()
    (run / "config_history" / "0001.yaml").write_text(to_yaml(load_config(None, ["optim.lr=0.4"])))
    assert mean_of_runs("tiny", [run], {})["config"]["optim.lr"] == 0.4


def test_curves_of_a_smaller_model_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = tmp_path / "big.json", tmp_path / "page.html"
    write_reference(
        mean_of_runs("big", seeds(tmp_path, 0.3), {"reduced": "the first 2 steps with student.depth=3"}), file
    )
    own = a_run(tmp_path / "own", [3.0, 1.0])
    assert cli.main(["compare", str(own), "--reference", str(file), "--out", str(page)]) == 0
    said = "big, reduced, mean of 1 seeds: the first 2 steps with student.depth=3. Compare shapes: levels differ at other sizes."
    assert said in capsys.readouterr().out.splitlines()
    assert said in page.read_text()


def test_runs_of_different_configs_have_no_mean(tmp_path: Path) -> None:
    (one,), (two,) = seeds(tmp_path / "a", 0.3), seeds(tmp_path / "b", 0.3, lr=0.2)
    with pytest.raises(FeatureError, match=r"optim\.lr is not that of"):
        mean_of_runs("tiny", [one, two], {})


@pytest.mark.parametrize("text", ["[]", '{"recipe": 3}', "{", '{"recipe": "a", "seeds": [0], "config": {}}'])
def test_a_file_that_holds_no_curves_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text(text)
    run = a_run(tmp_path / "own", [3.0])
    assert cli.main(["compare", str(run), "--reference", str(tmp_path / "bad.json")]) == 78
    assert "bad.json: not reference curves: " in capsys.readouterr().err


def test_the_curves_of_every_shipped_recipe_are_found_by_its_name() -> None:
    for name in shipped_references():
        assert find_reference(Path(name)) is not None
    assert find_reference(Path("no_such_recipe")) is None
