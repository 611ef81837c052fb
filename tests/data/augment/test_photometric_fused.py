from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov3.data.augment.augmentation import JITTER_OPS
from dinov3.data.augment.photometric import TAPS, blur_weights
from dinov3.data.augment.photometric_fused import table, why_not
from tests.data.augment.test_photometric import untouched
from tests.kernels_for_gpus import A100, H100, compiled


def test_the_table_has_every_parameter_in_its_column() -> None:
    params = replace(
        untouched(3),
        mirrored=np.array([True, False, False]),
        upside_down=np.array([False, True, False]),
        turns=np.array([0, 3, 1], dtype=np.int8),
        gray=np.array([False, False, True]),
        solarized=np.array([True, False, False]),
        sigma=np.array([0.0, 1.5, 0.0]),
        jittered=np.array([True, False, True]),
        order=np.array([[2, 0, 3, 1]] * 3, dtype=np.int8),
        factors=np.array([[0.5, 1.5, 2.0, -0.1]] * 3),
    )
    values = table(params)
    assert values[:, :6].tolist() == [[1, 0, 0, 0, 1, 0], [0, 1, 3, 0, 0, 1], [0, 0, 1, 1, 0, 0]]
    assert values[:, 6:10].tolist() == [[2, 0, 3, 1], [-1] * 4, [2, 0, 3, 1]]  # -1: not jittered
    assert values[0, 10:14].tolist() == pytest.approx([0.5, 1.5, 2.0, -0.1])
    assert np.array_equal(values[1, 14:], blur_weights(params.sigma[1:2])[0])
    assert values[0, 14:].tolist() == [0] * 4 + [1] + [0] * 4
    assert values.shape == (3, 14 + TAPS)


def test_a_cpu_is_told_why_it_takes_the_plain_operators() -> None:
    assert "crops are on cpu" in str(why_not(torch.device("cpu")))


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """What ``interpreted.py`` found."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton interprets the kernels: pip install '.[nightly]'")
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.augment.interpreted"],
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.nightly
def test_the_columns_of_the_kernels_are_those_of_the_table(interpreted: dict[str, Any]) -> None:
    width = table(untouched(1)).shape[1]
    assert interpreted["columns"] == [5, 6, 6 + len(JITTER_OPS), width - TAPS]
    assert [JITTER_OPS[n] for n in interpreted["operations"]] == ["brightness", "contrast", "saturation"]


EXACT = ("solarized", "stained", "none", *(f"turns {n}" for n in range(4)))
MIXED = ("orders", "everything", "odd size")  # hue enlarges the rounding of what is nearly gray


@pytest.mark.nightly
def test_the_kernels_do_what_the_plain_operators_do(interpreted: dict[str, Any]) -> None:
    assert {*JITTER_OPS, *EXACT, *MIXED, "gray", "blur", "same size", "five channels"} == set(
        interpreted["differences"]
    )
    for name, (crops, clean) in interpreted["differences"].items():
        assert crops <= (0 if name in EXACT else 2e-5 if name in MIXED else 4e-6), name
        assert clean <= 1e-6, name


@pytest.mark.nightly
def test_a_grid_of_many_crops_is_one_that_cuda_takes(interpreted: dict[str, Any]) -> None:
    """2**31 - 1 programs along the first axis, 65,535 along the second."""
    assert len(interpreted["grids"]) == 4
    assert all(grid[0] >= 8 * 4096 and all(n <= 65535 for n in grid[1:]) for grid in interpreted["grids"])


@pytest.mark.nightly
@pytest.mark.parametrize("capability", [A100, H100])
def test_the_kernels_compile_for_gpus(capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="pip install '.[nightly]'")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from dinov3.data.augment import photometric_kernels

    like = {name: torch.empty(3, device="meta") for name in ("mean", "std")}
    crops = torch.empty(2, 224, 224, 3, dtype=torch.uint8, device="meta")
    values = torch.empty(2, table(untouched(2)).shape[1], device="meta")
    with compiled(photometric_kernels, ["_contrast_mean", "_colours", "_blurred"], capability) as kernels:
        for dtype in (torch.float32, torch.bfloat16):
            photometric_kernels.launch(crops, values, **like, dtype=dtype, recolors=True, blurs=True)
        photometric_kernels.launch(crops, values, **like, dtype=torch.bfloat16, recolors=False, blurs=False)
    assert {name: len(kernel.ptx) for name, kernel in kernels.items()} == {
        "_contrast_mean": 2,
        "_colours": 3,
        "_blurred": 4,
    }
