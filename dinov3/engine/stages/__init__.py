"""Several runs one after the other from one YAML. Begin with ``run.py``; ``plan.py`` knows where each stage is, ``checks.py``
what must hold before the first begins. For the training commands."""
