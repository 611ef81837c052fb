"""Detection trained: a feature pyramid and an anchor-free head on a backbone, frozen or not, as a task of the one trainer.

Read ``detector.py`` for the model, then ``job.py`` for what a run is made of (``config`` has its keys). ``pyramid`` and
``head`` are the layers, ``assign`` says which place answers for which box, ``loss`` what it costs, ``answers`` what is said
of an image. ``coco`` and ``boxed`` read boxes, ``views`` cuts them with their images, ``metric`` is COCO's mean average
precision. What all such tasks share is in ``finetune.headed``. Named by ``finetune``'s table of kinds; imported by nobody.
"""
