"""How good frozen features are on labelled data: k-NN, probes, retrieval; ``online/`` measures while a run trains.

Begin with ``command.py``. Never imports ``train``.
"""
