"""What the tasks share whose head says something of every place of an image: segment, detect, depth.

Read ``job.py`` first: a run of such a task, with what a task adds as abstract methods. ``model`` is a backbone with a head,
``building`` loads it, ``task`` trains it, ``stream`` cuts views in threads, ``scoring`` puts whole images through it (``over``:
shared out over all processes), ``selected`` keeps the best weights, ``evaluation`` writes what a finished model scores,
``product`` is its file, ``graph`` the same as ONNX. Imported by those tasks.
"""
