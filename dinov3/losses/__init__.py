"""Formulas: functions of tensors, with neither state nor config.

Begin with ``cross_entropy.py`` and ``sinkhorn.py``. Used by ``objectives``.
"""
