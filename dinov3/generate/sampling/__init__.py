"""From conditions to images with a trained transformer: ``dinov3 dit sample``.

Begin with ``guided.py`` (latents from conditions); ``asked.py`` makes conditions of images and texts, ``command.py`` is the
command. ``samplers.py`` and ``guidance.py`` in the folder above know nothing of a model.
"""
