from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dinov3.data.errors import DataError
from dinov3.data.preflight import refuse_missing


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{0}/nothing", "there is no such folder"),
        ("{0}/nothing.tar", "there is no such file or folder"),
        ("ImageFolder:root={0}/nothing", "there is no such file or folder"),
        ("FileList:path={0}/nothing.txt", "there is no such file or folder"),
        ("{0}", "contains no images; images end in .jpg"),
        ("{0}/notes.md", "is not a folder"),
        ("s3://bucket/x", "only local paths are read"),
    ],
)
def test_what_is_missing_or_empty_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("x")
    (tmp_path / "notes.md").write_text("x")
    for named in (text.format(tmp_path), ["Synthetic:n=5", text.format(tmp_path)]):
        with pytest.raises(DataError, match=problem) as caught:
            refuse_missing(named)
        assert "\n" not in str(caught.value)


def test_what_is_there_passes(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "A.JPG").write_bytes(b"x")
    refuse_missing([str(tmp_path), f"ImageFolder:root={tmp_path}", "Synthetic:n=5", f"{tmp_path}/part-{{0..3}}.tar"])


def test_torch_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom dinov3.data.preflight import refuse_missing\nfrom dinov3.data.errors import DataError\n"
        f"try:\n    refuse_missing({str(tmp_path)!r})\nexcept DataError as error:\n    print('torch' in sys.modules, error)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith(f"False {tmp_path}: contains no images")
