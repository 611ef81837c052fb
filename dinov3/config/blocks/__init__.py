"""The blocks of a YAML, each a dataclass whose keys carry meaning, unit and limits.

Begin with ``train.py``. ``config/schema.py`` puts them together; other rooms import them from there.
"""
