"""Processes that train together: the group, sums that are free when alone, sharding, and what all must do or none.

Begin with ``context.py``. One process is a cluster of one, so nobody outside asks whether there is a group. Every room
above may import this one.
"""
