"""Deliberate changes of the program's numbers, each of which some fast test must notice.

`changes.py` lists them; `python -m tests.mutation [WORD ...]` applies each (or those with a word in their text) to a copy
of the tree and runs the tests it names there. What no test notices is a survivor: a number nobody holds.
"""
