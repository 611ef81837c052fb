"""What is in a data set, before training depends on it: ``dinov3 data``.

Begin with ``command.py`` and ``survey.py``. Imports data and pictures.
"""
