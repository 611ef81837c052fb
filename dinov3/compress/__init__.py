"""Smaller backbones: fewer heads, neurons and bits, matrices as products of two (``dinov3 compress``).

Read ``command`` first, then ``methods``: what each method is and how much it takes away. ``surgery`` cuts, ``energy``
decides by weights alone, ``moments`` looks at images without labels, ``removal``, ``whitened`` and ``refit`` keep what
the weights alone would lose, ``allocation`` spends one budget over all layers. What a compressed model is, and how it is
stored and loaded, stands in ``models/shapes`` and ``models/int8``. This room imports models, losses, data, features,
weights and the probes of ``eval``; only the command line imports it.
"""
