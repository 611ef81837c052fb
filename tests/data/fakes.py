"""Datasets that behave well or badly. They live in a module, so that worker processes can import them."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from dinov3.data.errors import BadImage


class Pictures:
    """``n`` smooth pictures of changing size; those in ``bad`` cannot be read."""

    def __init__(self, n: int = 50, bad: frozenset[int] = frozenset(), channels: int = 3) -> None:
        self.n, self.bad, self.channels = n, bad, channels

    def __len__(self) -> int:
        return self.n

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        if index in self.bad:
            raise BadImage("on purpose")
        rng = np.random.default_rng(index)
        height, width = rng.integers(40, 90, 2)
        rows, columns, channel = np.mgrid[0:height, 0:width, 0 : self.channels]
        waves = np.sin(rows * rng.random() / 5 + channel) + np.cos(columns * rng.random() / 5 - channel)
        return (128 + 60 * waves).clip(0, 255).astype(np.uint8)

    def label(self, index: int) -> int | None:
        return None

    def name(self, index: int) -> str:
        return f"picture-{index}"

    def fingerprint(self) -> str:
        return "Pictures"

    def version(self) -> str:
        return self.fingerprint()


class Trouble(Pictures):
    """What happens when the picture number ``index`` is read."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        if index == self.index:
            self.happen()
        return super().read(index)

    def happen(self) -> None:
        raise NotImplementedError


class Killed(Trouble):
    def happen(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Trouble):
    def happen(self) -> None:
        time.sleep(1000)


class Failing(Trouble):
    def happen(self) -> None:
        raise KeyError("a bug in the source")


class Exiting(Trouble):
    def happen(self) -> None:
        os._exit(3)


def poisoned(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a global random generator was used")


class Poisonous(Pictures):
    """Makes the global generators of the process that reads it raise."""

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        poison_global_generators()
        return super().read(index)


def poison_global_generators() -> None:
    for name in ("random", "randint", "uniform", "shuffle", "choice", "sample", "gauss", "seed"):
        setattr(random, name, poisoned)
    for name in ("rand", "randn", "randint", "random", "uniform", "choice", "permutation", "shuffle", "normal", "seed"):
        setattr(np.random, name, poisoned)
    for name in (
        "rand",
        "randn",
        "randint",
        "randperm",
        "bernoulli",
        "multinomial",
        "normal",
        "manual_seed",
        "rand_like",
    ):
        setattr(torch, name, poisoned)
    for name in ("uniform_", "normal_", "random_", "bernoulli_", "exponential_"):
        setattr(torch.Tensor, name, poisoned)
