"""A diffusion transformer that sees an image's features: ``dinov3 dit``.

Begin with ``command.py``. ``extract.py`` and ``verify.py`` have the shards, ``inputs/`` texts and latents, ``training/`` the task,
``sampling/`` and ``validation/`` what is made of it; ``times.py``, ``conditions.py``, ``guidance.py`` and ``samplers.py`` are what
they rest on. Imports config, data, engine, features, models, pictures and runs; only the command line imports it.
"""
