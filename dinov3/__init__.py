"""Self-supervised pretraining of vision backbones in the DINOv3 family."""

__version__ = "0.1.0"
