"""How well a diffusion transformer does what its conditions ask for: looks while it trains, a report afterwards.

Begin with ``scene.py`` (the images that all looks share) and ``looks.py``; ``report.py`` judges a run: ``dinov3 dit report``.
"""
