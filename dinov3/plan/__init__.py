"""What a training run will cost, before it is begun: ``dinov3 plan``.

The step itself is run, the trainer's own, with tensors that have shapes and no values, in a group of processes that do not
exist; what it multiplies, holds and sends is counted. Begin with ``step.py`` (one step counted), then ``estimate.py``
(what follows for a card and a number of GPUs). Only the command line imports this room.
"""
