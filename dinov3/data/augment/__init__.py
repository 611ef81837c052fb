"""What is done to the pixels of crops: colours, blur, solarisation, stains.

Begin with ``photometric.py``, the definition; ``photometric_fused.py`` is the fast form. Used by ``data/feed.py``.
"""
