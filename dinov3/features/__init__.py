"""Frozen features: ``from dinov3 import features; features.load("runs/photos").extract(images, pool="cls")``.

Begin with ``extract.py``; ``cache.py`` keeps features of a data set on disk. Imports data, models and weights; eval,
pictures, teachers and train import it.
"""

from dinov3.features.extract import FeatureExtractor, load
from dinov3.features.preprocess import Preprocess
from dinov3.features.tokens import Tokens
from dinov3.weights.own import load_backbone

__all__ = ["FeatureExtractor", "Preprocess", "Tokens", "load", "load_backbone"]
