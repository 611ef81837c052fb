"""Classifiers on a backbone, and how good they honestly are.

Read ``metrics`` for what is measured, ``job`` for what a run is made of (``config`` has its keys, ``kinds`` what else can be
fine-tuned by the same command). ``classifier`` is the model, ``stream`` and ``views`` its data, ``selection`` the weights that are
kept, ``concluding`` what a finished run leaves. This room imports models, losses, data, engine, features, weights and
runs; never train.
"""
