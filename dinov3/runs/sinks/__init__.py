"""Where figures go beside the JSONL files: CSV, TensorBoard, Weights & Biases. Begin with ``sink.py``. Used by ``runs/records.py``."""
