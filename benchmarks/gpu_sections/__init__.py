"""The sections of ``benchmarks/gpu_check.py``: what is asked of a GPU the first time one is there.

``plan.py`` first: the sections with their time and what they may be given. ``report.py`` writes the JSON, ``child.py``
runs one section in a process of its own, and each other module is a section (or two that do the same): ``run(report,
settings)`` goes through its items, each of which may fail without the rest. ``table.py`` makes the tables of a report.
Nothing in ``dinov3`` may import this; it imports the rooms of ``dinov3`` it measures, the trainer through
``benchmarks/synthetic_step.py`` alone.
"""
