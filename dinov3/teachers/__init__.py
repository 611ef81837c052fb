"""Frozen or slow models whose outputs are targets: what view each wants and what it returns.

Begin with ``frozen.py``. Used by ``objectives`` and ``train``.
"""
