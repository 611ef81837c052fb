"""What an installation consists of. Built in a copy of the checkout, without the network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("dinov3", "utility", "configs", "tests", "README.md", "LICENSE", "pyproject.toml", "setup.cfg")

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        importlib.util.find_spec("pip") is None
        or importlib.util.find_spec("setuptools") is None
        or int(importlib.metadata.version("setuptools").partition(".")[0]) < 77,
        reason="needs pip, and setuptools 77 as pyproject.toml does",
    ),
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy called ``dinov3``, as a clone is."""
    folder = tmp_path_factory.mktemp("beside") / "dinov3"
    folder.mkdir()
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words, "--no-deps", "--no-build-isolation"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_wheel_has_one_package_and_its_recipes(clone: Path, tmp_path: Path) -> None:
    pip("wheel", str(clone), "-w", str(tmp_path), "--no-index")
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"dinov3"}
    wanted = {path.relative_to(ROOT / "configs" / "train") for path in (ROOT / "configs" / "train").rglob("*.yaml")}
    assert {Path(n).relative_to("dinov3/recipes") for n in names if n.startswith("dinov3/recipes/")} == wanted
    for room, kind in (("generate", "dit"), ("finetune", "finetune")):
        assert {f"dinov3/{room}/recipes/{path.name}" for path in (ROOT / "configs" / kind).glob("*.yaml")} <= {*names}
    assert "dinov3/py.typed" in names
    assert {
        f"dinov3/pictures/charts/{name}" for name in ("draw.js", "uPlot.iife.min.js", "uPlot.min.css", "LICENSE")
    } <= {*names}


def test_a_clone_that_is_installed_in_place_is_found_from_the_folder_above_it(clone: Path, tmp_path: Path) -> None:
    pip("install", "--target", str(tmp_path / "site"), "--no-index", "-e", str(clone))
    code = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); import dinov3; print(dinov3.__version__, dinov3.__file__)"
    for words in (["-c", code], [str(clone.parent / "script.py")]):
        (clone.parent / "script.py").write_text(code)
        done = subprocess.run([sys.executable, "-S", *words], cwd=clone.parent, capture_output=True, text=True, env={})
        assert done.returncode == 0, done.stderr
        assert str(clone / "dinov3" / "__init__.py") in done.stdout
