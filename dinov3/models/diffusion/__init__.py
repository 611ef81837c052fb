"""The diffusion transformer that learns in the space of a backbone's patch tokens.

Begin with ``transformer.py``. Used by ``generate``.
"""
