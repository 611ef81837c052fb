"""Classifiers on a backbone, and how good they honestly are.

Read ``metrics`` first: definitions, with what happens at ties, at p = 1 and when a class is missing. ``bootstrap`` gives
them intervals, ``calibration`` a temperature, ``curves`` pictures (ROC, precision-recall, reliability), ``predictions``
the table of what was predicted. This room imports models, losses, data, engine, features, weights and runs; never train.
"""
