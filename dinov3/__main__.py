"""``python -m dinov3`` is the command ``dinov3``."""

from __future__ import annotations

import sys

from dinov3.cli import main

if __name__ == "__main__":
    sys.exit(main())
