"""The sections, in their order, and the settings they all get. No torch here: the parent process stays light."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """One section: ``seconds`` is its estimate on an H200, by which it is skipped when less is left of the budget.

    Sections run at the same time where the card holds them all (``gib`` each); one that is ``alone`` never does. What one
    of them times, it times when no other computes: see ``Turn``.
    """

    letter: str
    title: str
    seconds: float
    module: str  # of this package
    gib: float = 4.0
    alone: bool = False
    optional: bool = False  # run only when it is asked for by its letter

    @property
    def times(self) -> bool:
        """Whether it waits for its ``Turn``."""
        return self.module == "speed"


SECTIONS = (
    Section("A", "card: matrix products, copies, attention backends", 15, "machine", alone=True),
    Section("B", "golden cases, fp32, TF32 off", 45, "golden"),
    Section("C", "losses: plain, eager and compiled", 60, "losses"),
    Section("D", "ViT of depth 4: fp32 and bf16, eager and compiled", 80, "vit"),
    Section("E", "resume: 6 steps against 3 + 3", 150, "resume"),
    Section("F", "device feed, saves, NCCL and FSDP2 on one rank", 70, "pieces"),
    Section("G", "ViT-B step", 130, "speed", gib=41),
    Section("H", "parts of a ViT-B step", 40, "parts", alone=True),
    Section("N", "rotation and GELU in other forms", 40, "candidates", alone=True),
    Section("I", "ViT-S step, then end to end from files", 150, "speed", gib=45),
    Section("J", "ViT-L step", 240, "speed", gib=100),
    Section("K", "ViT-B step, tokens between blocks in fp32", 130, "speed", gib=45, optional=True),
    Section("L", "ViT-B step, compiled block by block", 80, "speed", gib=45, optional=True),
    Section("O", "ViT-B step, heads rotated by kernels", 130, "speed", gib=41, optional=True),
    Section("M", "the CIFAR-10 recipe, for as long as there is time", 500, "learn", alone=True, optional=True),
)
USABLE = 0.95  # of the card's memory
LIMIT_FACTOR, LIMIT_EXTRA = 1.6, 15.0  # a section is ended after this multiple of its estimate and these seconds
CPU_SECONDS = 60.0  # the estimate of a section in its tiny form: starting up, on a machine that does other things


@dataclass(frozen=True)
class Settings:
    """What a section is told. ``tiny``: sizes for a CPU, which show that the section runs and nothing else."""

    device: str  # cuda or cpu
    out: str  # the JSON
    folder: str  # for what a section writes beside it; removed at the end
    turns: str = ""  # folder of the group's ``Turn``, from the parent; empty: the section runs by itself
    arch: str | None = None  # instead of vit_base
    batch_scale: str = "auto"  # or a number
    cache: str | None = None  # folder of compile caches kept from call to call
    keys: tuple[str, ...] = ()  # key=value of the config, for what the sections of steps train
    golden: str = "tests/golden/data"
    cifar: str | None = None  # folder of CIFAR-10 in tar shards, for section M
    seconds: float = 0.0  # a section should end after this time

    @property
    def tiny(self) -> bool:
        return self.device == "cpu"

    @property
    def scratch(self) -> Path:
        return Path(self.folder)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        values = json.loads(text)
        return cls(**values | {"keys": tuple(values["keys"])})


def chosen(only: str | None, skip: str | None) -> list[Section]:
    """The sections whose letters are in ``only`` (None: all but the optional ones) and not in ``skip``, comma-separated.

    ValueError: no such letter.
    """
    known = {section.letter for section in SECTIONS}
    wanted = letters(only) if only is not None else {s.letter for s in SECTIONS if not s.optional}
    left_out = letters(skip) if skip is not None else set()
    if unknown := sorted((wanted | left_out) - known):
        raise ValueError(f"no section {', '.join(unknown)}: there are {', '.join(sorted(known))}")
    return [section for section in SECTIONS if section.letter in wanted - left_out]


def letters(text: str) -> set[str]:
    return {letter.strip().upper() for letter in text.split(",") if letter.strip()}


def turns(sections: list[Section], card_gib: float) -> list[list[Section]]:
    """``sections`` as groups that run one after the other, each as large as a card of ``card_gib`` holds.

    Most of a section's time is starting up and compiling, which is the host's. 0: each section by itself.
    """
    groups: list[list[Section]] = []
    for section in sections:
        for group in groups:
            room = USABLE * card_gib - sum(s.gib for s in group)
            if section.gib <= room and not section.alone and not group[0].alone:
                group.append(section)
                break
        else:
            groups.append([section])
    return groups


class Turn:
    """Among sections that run at the same time: who may time something.

    A section that is ready writes its letter into ``folder`` and waits for the file ``go``, which the parent writes when
    all others are ready or at their end; then it takes the lock.
    """

    def __init__(self, folder: Path, letter: str) -> None:
        self.folder, self.letter = folder, letter

    def ready(self) -> Path:
        return self.folder / f"ready-{self.letter}"

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Nothing else computes meanwhile."""
        self.ready().touch()
        while not (self.folder / "go").exists():
            time.sleep(0.1)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def estimate(section: Section, device: str) -> float:
    """Seconds that a section should take."""
    return section.seconds if device == "cuda" else CPU_SECONDS


def limit(section: Section, device: str, left: float) -> float:
    """Seconds after which a section is ended, when ``left`` remain."""
    return min(left, LIMIT_FACTOR * estimate(section, device) + LIMIT_EXTRA)
