"""Rotary positions: the angles of a grid of patches, and the turning of queries and keys, plain and by kernels.

Begin with ``embedding.py``.
"""
