"""What is measured and drawn while a backbone trains: one file each, a ``Look``.

Begin with ``scene.py``, what they look at. A new one is a file here and its name in ``LOOKS`` (``looks.py``). Used by
``train``; for figures of features that are frozen on disk see ``eval``.
"""
