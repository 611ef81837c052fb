"""``dinov3.train`` with deterministic kernels: ``python -m benchmarks.gpu_sections.train deterministic ARGUMENTS``."""

from __future__ import annotations

import os
import runpy
import sys

from benchmarks.gpu_sections.resume import DETERMINISTIC_ENVIRONMENT


def main() -> None:
    if sys.argv[1] == "deterministic":
        os.environ |= DETERMINISTIC_ENVIRONMENT  # before CUDA starts
        import torch

        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    sys.argv = ["dinov3.train", *sys.argv[2:]]
    runpy.run_module("dinov3.train", run_name="__main__")


if __name__ == "__main__":
    main()
