"""The one door to torchvision.

Its wheels are built for a CUDA torch. With a CPU torch their operators cannot be loaded, and then ``import
torchvision`` fails (``operator torchvision::nms does not exist``), because it registers shape functions for operators
that were never defined; ``transformers`` fails with it. Defining the two it names is enough: transforms and models that
do not call them work. When torchvision's own operators load, nothing is defined.
"""

from __future__ import annotations

import logging
from importlib import import_module, util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import torch

log = logging.getLogger(__name__)

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_stand_ins: torch.library.Library | None = None  # definitions last as long as this object


def prepare_torchvision() -> None:
    """Make ``import torchvision`` work. Call before anything that imports it, such as ``transformers`` processors."""
    global _stand_ins
    if _stand_ins is not None or operators_load():
        return
    _stand_ins = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _stand_ins.define(operator + SCHEMA)
    log.info("torchvision's compiled operators do not fit this torch %s: it runs without them", torch.__version__)


def import_torchvision(name: str = "torchvision") -> ModuleType:
    """``torchvision`` or one of its modules, such as ``torchvision.transforms.v2.functional``."""
    prepare_torchvision()
    return import_module(name)


def operators_load() -> bool:
    """Whether torchvision's compiled part fits this torch."""
    spec = util.find_spec("torchvision")  # finds it without importing it
    if spec is None:
        raise ModuleNotFoundError("torchvision is not installed; it is one of this package's dependencies")
    for folder in spec.submodule_search_locations or ():
        for suffix in EXTENSION_SUFFIXES:
            library = Path(folder) / f"_C{suffix}"
            if library.exists():
                try:
                    torch.ops.load_library(str(library))  # what torchvision itself does on import
                except OSError as error:
                    log.debug("%s: %s", library, error)
                    return False
                return True
    return False
