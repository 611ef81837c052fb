"""Backbones and heads: tensors in, tensors out.

Begin with ``vit.py`` and ``build.py`` (a backbone from its config). State-dict names are DINOv3's. Imports config,
contracts and distributed; all rooms that compute may import it.
"""
