"""Weights in and out of files: our own, Meta's, Hugging Face's, timm's, ONNX, DCP folders; nothing in a file is run.

Begin with ``files.py`` (reading bytes) and ``own.py`` (our format). Imports models and runs; everything that reads or
writes a backbone imports it.
"""
