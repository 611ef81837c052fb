"""Segmentation trained: a head on a backbone, frozen or not, as a task of the one trainer.

Read ``segmenter.py`` for the model, then ``job.py`` for what a run is made of (``config`` has its keys). ``linear`` and
``mask_transformer`` are the heads, ``mask_loss`` the loss of the second, ``stream`` the crops, ``scoring`` whole images in
windows, ``concluding`` what a finished run leaves. Files and truths are read by ``dense``; selection and the command are
``finetune``'s, which knows this room by the name of ``kind`` only. Imported by nobody.
"""
