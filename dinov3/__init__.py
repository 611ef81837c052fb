"""Self-supervised pretraining of vision backbones in the DINOv3 family."""

import os

__version__ = "0.1.0"

# Torch's CPU threads spin while they wait for each other. Beside a loader worker, or anything else that wants a core,
# they spin away the time the other needs: a step of the demo took 6 s instead of 0.5 s on two busy cores. Must be set
# before torch is imported; a value the user gave stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
