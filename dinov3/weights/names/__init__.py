"""What tensors are called in other programs, and what a model is by its tensors.

Begin with ``name_table.py``. Used by ``weights/layouts.py`` and ``weights/formats.py``.
"""
