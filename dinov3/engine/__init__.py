"""The trainer of every task, and what it is made of: optimizer, schedules, precision, saving, looking.

Begin with ``task.py`` (the contract), then ``trainer.py`` and ``life.py`` (a run from its command line to its end). Knows
no model; ``train``, and every other kind of training, imports it.
"""
