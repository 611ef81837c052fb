"""What tests of exports and of their cards share: small models as they are stored, and the formats that are quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from dinov3.data.torchvision_compat import prepare_torchvision
from dinov3.models.backbone import Backbone
from dinov3.models.build import describe_backbone
from dinov3.weights.export import FORMATS
from dinov3.weights.own import write_backbone

PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "size": 64}
NEEDS = {"hf": ("transformers",), "timm": ("timm",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
QUICK = [layout for layout in FORMATS if layout != "onnx"]  # torch's ONNX exporter takes ten seconds for any model
SLOW = pytest.param("onnx", marks=pytest.mark.nightly)


def out_of(layout: str, folder: Path) -> Path:
    return folder / f"model{FORMATS[layout].suffix}"


def need(layout: str) -> None:
    prepare_torchvision()
    for package in NEEDS.get(layout, ()):
        pytest.importorskip(package)


def stored(model: Backbone, folder: Path) -> Path:
    folder.mkdir()
    write_backbone(folder, model, PREPROCESS)
    return folder


def config_of(model: Backbone) -> dict[str, Any]:
    config: dict[str, Any] = describe_backbone(model)["config"]
    return config


def state_of(model: Backbone) -> dict[str, Tensor]:
    return dict(model.state_dict())
