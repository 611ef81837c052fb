"""Dense features measured and used: segmentation, depth, and in rooms of their own correspondence and video.

First file: ``segmentation.py``, then the command that measures it, ``segment_command.py``. Numerics (areas, windows,
depth) know no file and no backbone; ``sets.py`` reads images with their truth, ``frozen.py`` takes patch features,
``probe.py`` fits the heads, ``*_command.py`` are what ``dinov3 eval seg|depth`` run: each an ``Evaluation``
(``evaluation.py``), which has what they share. Imports features, models, data, weights, runs and pictures; imported by
the command line, and by its two rooms.
"""
