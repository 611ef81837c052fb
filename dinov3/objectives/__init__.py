"""One loss term a file: its settings, its heads, its formula.

Begin with ``base.py``. Used by ``train``.
"""
