from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dinov3.cli import main
from dinov3.generate import demo
from dinov3.generate.errors import GenerateError
from dinov3.system.files import write_json


def test_every_command_of_it_is_one_that_the_command_line_knows(tmp_path: Path) -> None:
    """With a call that only writes down what it is asked for, and an evaluation as it might be."""
    asked: list[list[str]] = []
    figures = {"recon_mse": 0.1, "swap_ratio": 0.3}

    def call(words: list[str]) -> int:
        asked.append(words)
        (tmp_path / "run").mkdir(exist_ok=True)
        write_json(tmp_path / "run" / "evaluation.jsonl", figures, indent=None)
        return 0

    with pytest.raises(GenerateError, match=r"did not reach swap_ratio 0.300 \(below 0.2\)"):
        demo.demonstrate(tmp_path, None, call)  # type: ignore[arg-type]
    assert [words[0] for words in asked] == ["extract"] * 2 + ["verify"] * 2 + ["train"] + ["sample"] * 2 + ["report"]
    with pytest.raises(GenerateError, match="dit extract ended with 3"):
        demo.demonstrate(tmp_path, None, lambda words: 3)


@pytest.mark.nightly
def test_the_whole_way_reaches_its_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dit", "demo", "--out", str(tmp_path / "demo")]) == 0
    told = capsys.readouterr().out
    assert "below 0.2: yes" in told
    assert "below 0.2: no" not in told
    for name in ("samples/grid.png", "mixed/grid.png"):
        with Image.open(tmp_path / "demo" / name) as picture:
            assert picture.width > 4 * 96
