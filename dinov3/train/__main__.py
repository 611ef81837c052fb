"""``python -m dinov3.train``, also under torchrun."""

import sys

from dinov3.train.command import main

if __name__ == "__main__":
    sys.exit(main())
