"""What a classifier is measured by: metrics of probabilities, intervals of them, and a temperature that calibrates them.

Begin with ``metrics.py``.
"""
