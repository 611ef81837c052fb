"""What the tasks share whose head says something of every place of an image: segment, detect, depth.

Read ``job.py`` first: the parts of a run that are the same for all of them. ``building`` loads the backbone, ``stream`` cuts
views in threads, ``over`` scores a set on all processes, ``selected`` keeps the best weights, ``product`` is the file of a
backbone with its head, ``graph`` the same as ONNX. Imported by those tasks.
"""
