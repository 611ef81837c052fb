"""Random draws as a function of what they are for: no generator is shared, so none has a state to save.

A draw depends on (seed, purpose, where in the data), never on who makes it: not on workers, batches, processes or
what was drawn before. That is what makes a resumed run, and a run on another number of processes, see the same data.
"""

from __future__ import annotations

import hashlib

import numpy as np


def digest(seed: int, purpose: str, *where: int, size: int = 16) -> bytes:
    """``size`` bytes (at most 64) of BLAKE2b over the key."""
    text = "/".join([str(seed), purpose, *map(str, where)])
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def generator(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """A fresh Philox generator for this key (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest(seed, purpose, *where), "little")))
