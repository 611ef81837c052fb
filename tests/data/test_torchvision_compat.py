from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for folder in ("dinov3", "utility", "benchmarks") for p in (ROOT / folder).rglob("*.py"))


def run_alone(code: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a fresh interpreter: an import that failed once leaves traces."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_torchvision_can_be_imported_and_used_through_the_door() -> None:
    done = run_alone(
        "import torch\n"
        "from dinov3.data.torchvision_compat import import_torchvision\n"
        "functional = import_torchvision('torchvision.transforms.v2.functional')\n"
        "print(functional.adjust_brightness(torch.ones(3, 2, 2), 0.5).sum().item())\n"
    )
    assert done.stdout.strip() == "6.0", done.stderr


def test_the_door_opens_for_those_who_import_torchvision_themselves() -> None:
    done = run_alone(
        "from dinov3.data.torchvision_compat import prepare_torchvision\n"
        "prepare_torchvision(); prepare_torchvision()\n"
        "from torchvision.transforms import v2\n"
        "print(v2.Resize(3).__class__.__name__)\n"
    )
    assert done.stdout.strip() == "Resize", done.stderr


def test_stand_ins_are_defined_only_where_the_operators_do_not_load() -> None:
    done = run_alone(
        "from dinov3.data import torchvision_compat as compat\n"
        "plain = True\n"
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError as error:\n"
        "    plain = 'torchvision::nms does not exist' not in str(error)\n"
        "compat.prepare_torchvision()\n"
        "print(plain, compat._stand_ins is None)\n"
    )
    words = done.stdout.split()
    assert words in (["True", "True"], ["False", "False"]), done.stderr


def test_without_torchvision_its_door_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from dinov3.data import torchvision_compat

    monkeypatch.setattr(torchvision_compat.util, "find_spec", lambda _: None)
    monkeypatch.setattr(torchvision_compat, "_stand_ins", None)
    torchvision_compat.prepare_torchvision()
    assert torchvision_compat._stand_ins is None
    assert not torchvision_compat.operators_load()
    with pytest.raises(torchvision_compat.TorchvisionMissing, match=r"detectors need torchvision.*dinov3\[detect\]"):
        torchvision_compat.import_torchvision("torchvision.ops")


def test_nothing_is_defined_when_the_operators_load(monkeypatch: pytest.MonkeyPatch) -> None:
    from dinov3.data import torchvision_compat

    monkeypatch.setattr(torchvision_compat, "operators_load", lambda: True)
    monkeypatch.setattr(torchvision_compat, "_stand_ins", None)
    torchvision_compat.prepare_torchvision()
    assert torchvision_compat._stand_ins is None


def test_the_loader_needs_no_torchvision() -> None:
    done = run_alone(
        "import sys\n"
        "import dinov3.data.loader, dinov3.data.sources.tar, dinov3.data.sources.imagefolder\n"
        "print('torchvision' in sys.modules)\n"
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_module_imports_torchvision(path: Path) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    assert not [name for name in names if name.split(".")[0] == "torchvision"]
