"""A compressed model trained back towards the features of the one it was made from; no label is needed.

``config`` has the keys, ``job`` is a run, ``pair`` loads the two models and compares them, ``task`` trains one of them,
``loss`` is what is made small, ``kind`` what ``dinov3 finetune`` finds by ``task: recover``.
"""
