"""Dense features measured and used: segmentation, depth, correspondence, tracking, video.

First file: ``segmentation.py``, then the command that measures it, ``segment_command.py``. Numerics (areas, windows,
depth, propagation, matching) know no file and no backbone; ``sets_*.py`` read images with their truth, ``frozen.py``
takes patch features, ``probe.py`` fits the heads, ``*_command.py`` are what ``dinov3 eval seg|depth|match|track`` and
``dinov3 video`` run. Imports features, models, data, weights, runs and pictures; imported by the command line only.
"""
