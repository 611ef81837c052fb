"""What the program says of its own keys: meanings, readers, searches, the YAMLs made from the schema.

Begin with ``explain.py``. Used by the command line and by tests.
"""
