"""Segmentation trained: a head on a backbone, frozen or not, as a task of the one trainer.

Read ``segmenter.py`` for the model, then ``job.py`` for what a run is made of (``config`` has its keys). ``pixel`` has the
linear head and DPT's, ``mask_transformer`` the third with ``mask_loss``; ``stream`` has the crops, ``scoring`` whole images in
windows, ``concluding`` what a finished run leaves. Files and truths are read by ``dense``; what all such tasks share is in
``finetune.headed``; the command is ``finetune``'s, which knows this room by the name of ``kind`` only. Imported by nobody.
"""
