"""Frozen features: ``from dinov3 import features; features.load("runs/photos").extract(images, pool="cls")``."""

from dinov3.features.extract import FeatureExtractor, load
from dinov3.features.preprocess import Preprocess
from dinov3.features.tokens import Tokens
from dinov3.weights.own import load_backbone

__all__ = ["FeatureExtractor", "Preprocess", "Tokens", "load", "load_backbone"]
