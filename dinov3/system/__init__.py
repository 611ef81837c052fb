"""What the program asks of the operating system, one piece each: whole files, JSON lines, paths, the console, HTML, cores.

Begin with ``files.py``. Every room may import this one; it imports none.
"""
