"""Depth trained: a head over bins on a backbone, frozen or not, as a task of the one trainer.

Read ``estimator.py`` for the model, then ``job.py`` for what a run is made of (``config`` has its keys). Bins, the loss of one
image, the scores and the readers of 16-bit files are ``dense``'s, as is DPT's decoder; what all such tasks share is in
``finetune.headed``. Named by ``finetune``'s table of kinds; imported by nobody.
"""
