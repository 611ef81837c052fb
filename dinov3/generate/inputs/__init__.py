"""What a diffusion transformer is trained on beside features: texts and latents, from files, from models, or made here.

Begin with ``base.py`` (what a text and a latent coder are) and ``open.py`` (from a word of the command line to one). Used by
the extraction, by sampling and by the looks; only ``t5.py`` and ``vae.py`` import other people's models.
"""
