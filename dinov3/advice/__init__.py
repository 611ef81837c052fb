"""Which config fits these images, this machine and this goal: facts in, choices with their reasons out.

Begin with ``rules.py``, the one table; ``facts.py`` has what it looks at. ``dinov3 init`` writes the choices down,
``dinov3 train FOLDER`` starts with them. Imports survey; train and the command line import it.
"""
