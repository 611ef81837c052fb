"""Every key of every YAML: meaning, limits, checks, and the way from a file and a command line to plain dataclasses.

Begin with ``schema.py`` (the blocks) and ``load.py`` (how they are filled). OmegaConf and YAML stop here: all other rooms
see dataclasses. Every room but ``system`` may import this one.
"""
