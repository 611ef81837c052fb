"""Several runs beside each other: a table of all below a folder, and a page that compares some.

Begin with ``status.py`` (what one run is at). Imports runs and pictures; only the command line imports it.
"""
