"""Jobs: ``dinov3 submit`` and ``dinov3 doctor``.

``command.py`` first: what a user asks for, checked. ``script.py`` makes the text that sbatch gets and is the one place
where names are quoted; ``slurm.py`` sends it; ``job.py`` is what every task of it runs; ``local.py`` does the same on
this machine. ``resources.py`` holds the options, ``clock.py`` SLURM's times. Only the command line imports this room.
"""
