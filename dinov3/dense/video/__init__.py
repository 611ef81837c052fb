"""Films: features of every frame, masks carried from the first frame, and pictures of both.

First file: ``propagation.py``, which knows no file and no backbone, then ``carry.py``. ``frames.py`` and ``films.py``
read, ``render.py`` and ``video_features.py`` write; ``video_command.py`` is ``dinov3 video`` and ``track_command.py``
``dinov3 eval track``. Imports what its parent room does, and it; imported by the command line only.
"""
