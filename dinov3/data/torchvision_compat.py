"""The one door to torchvision, which detectors need and programs that read our exports.

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

from dinov3.system.errors import Foreseeable

log = logging.getLogger(__name__)

INSTALL = "pip install 'dinov3[detect]'"
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class TorchvisionMissing(Foreseeable):
    """It is asked for and not installed."""


_stand_ins: torch.library.Library | None = None  # definitions last as long as this object


def prepare_torchvision() -> None:
    """Make ``import torchvision`` work. Call before anything that imports it, such as ``transformers`` processors."""
    global _stand_ins
    if _stand_ins is not None or not is_installed() or operators_load():
        return
    _stand_ins = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _stand_ins.define(operator + SCHEMA)
    log.info("torchvision's compiled operators do not fit this torch %s: it runs without them", torch.__version__)


def import_torchvision(name: str = "torchvision") -> ModuleType:
    """``torchvision`` or one of its modules, such as ``torchvision.transforms.v2.functional``. Raises TorchvisionMissing."""
    if not is_installed():
        raise TorchvisionMissing(
            f"detectors need torchvision, of the version that belongs to torch {torch.__version__}: {INSTALL}"
        )
    prepare_torchvision()
    return import_module(name)


def is_installed() -> bool:
    """Whether there is a torchvision; without importing it."""
    return util.find_spec("torchvision") is not None


def operators_load() -> bool:
    """Whether torchvision is there and its compiled part fits this torch."""
    spec = util.find_spec("torchvision")
    for folder in (None if spec is None else spec.submodule_search_locations) or ():
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
