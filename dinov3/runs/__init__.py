"""A run on disk and its life: folder, checkpoints, lock, records, signals, watchdog.

Begin with ``folder.py`` (what is called how) and ``checkpoint.py`` (what is complete or absent). Knows nothing of models
or losses; ``engine`` and everything above may import it.
"""
