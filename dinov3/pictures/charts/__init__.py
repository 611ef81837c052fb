"""Curves that answer the pointer, inside a page of one file: uPlot (MIT, its licence beside it) and what draws with it.

Begin with ``inline.py``. Only pages import it.
"""
