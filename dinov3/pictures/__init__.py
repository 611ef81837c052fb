"""Pictures of features and of runs: PCA colours, attention, curves, the page of a run.

Begin with ``pca.py`` and ``run_page.py``. Imports features and runs; ``eval/online`` and the commands use it.
"""
