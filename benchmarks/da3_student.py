"""``python -m dinov3.train`` whose DA3 variant ``small`` is the encoder of ``benchmarks/da3_teacher.py``."""

import sys

from benchmarks.da3_teacher import put_in_place
from dinov3.train.command import main

if __name__ == "__main__":
    put_in_place()
    sys.exit(main())
