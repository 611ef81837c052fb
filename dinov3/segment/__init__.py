"""Segmentation trained: a head on a backbone, frozen or not, as a task of the one trainer.

Read ``segmenter.py`` for the model, then ``job.py`` for what a run is made of (``config`` has its keys). ``pixel`` has the
linear head and DPT's, ``mask_transformer`` the third with ``mask_loss``; ``scoring`` has whole images in windows, ``evaluate``
what a finished model is judged by. Files, truths and crops are of ``dense``; what all such tasks share is in
``finetune.headed``; the command is ``finetune``'s, which knows this room by the name of ``kind`` only. Imported by nobody.
"""
