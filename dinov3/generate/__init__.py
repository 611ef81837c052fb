"""Patch features as the condition of a diffusion transformer: its sizes, its noise and its guidance.

Begin with ``times.py`` (what is learned), then ``conditions.py``, ``guidance.py`` and ``samplers.py``. Imports data, features,
models and runs; only the command line imports it.
"""
