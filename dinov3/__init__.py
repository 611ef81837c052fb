"""Self-supervised pretraining of vision backbones in the DINOv3 family.

In Python: ``train``, ``load``, ``evaluate`` and ``export`` do what the commands of the same names do.
"""

import os

# What checks types takes it for True. It is not imported: that takes ms in which Ctrl-C would be a traceback.
TYPE_CHECKING = False
__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "export", "load", "train"]

# Torch's CPU threads spin while they wait for each other. Beside a loader worker, or anything else that wants a core,
# they spin away the time the other needs: a step of the demo took 6 s instead of 0.5 s on two busy cores. Must be set
# before torch is imported; a value the user gave stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from dinov3.eval.in_python import evaluate
    from dinov3.features.extract import load
    from dinov3.train.in_python import train
    from dinov3.weights.in_python import export

# ``train`` is a package as well, for ``python -m dinov3.train``: it can be called (see its ``__init__.py``).
DOORS = {
    "evaluate": "dinov3.eval.in_python",
    "export": "dinov3.weights.in_python",
    "load": "dinov3.features.extract",
}


def __getattr__(name: str) -> object:
    """What is asked for is imported then, so that ``import dinov3`` and ``dinov3 --help`` do not load torch."""
    from importlib import import_module

    if name == "train":
        return import_module("dinov3.train")
    if name in DOORS:
        return getattr(import_module(DOORS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
