"""Patch features as the condition of a diffusion transformer: ``dinov3 dit``.

Begin with ``command.py``, ``extract.py`` and ``verify.py`` (features in tar shards); ``times.py``, ``conditions.py``,
``guidance.py`` and ``samplers.py`` are what training and sampling rest on. Imports data, features, models and runs; only the
command line imports it.
"""
