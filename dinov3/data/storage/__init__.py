"""What data sets are stored in and how it is opened: handles, index caches, shards, labels.

Begin with ``index_cache.py``. Imported by ``data/sources``.
"""
