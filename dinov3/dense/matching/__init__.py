"""Points of one image found in another: homographies, keypoint pairs, photographs with depth and camera.

First file: ``correspondence.py``. ``match.py`` measures on the sets that ``pairs.py`` and ``navi.py`` read;
``position_bias.py`` takes away what a feature says about its place; ``match_command.py`` is ``dinov3 eval match``.
Imports what its parent room does, and it; imported by the command line only.
"""
