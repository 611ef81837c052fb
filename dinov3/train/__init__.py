"""Self-supervised pretraining as a task of the trainer.

Begin with ``ssl_meta_arch.py`` (student, teachers, objectives in one step), then ``job.py`` (how a run's parts are made).
Nothing but ``launch`` and the command line imports it.
"""
