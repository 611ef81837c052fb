"""Starting runs: SLURM through submitit, the local executor, and the check whether a machine is ready.

Begin with ``command.py``. The topmost room beside the command line.
"""
