"""Training a diffusion transformer, as a task of the one trainer: ``dinov3 dit train``.

Begin with ``job.py``; ``stream.py`` and ``order.py`` make batches of shards, ``task.py`` has the loss, ``looks.py`` what is
measured on the way. ``model_file.py`` is what sampling reads.
"""
