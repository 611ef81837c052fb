"""The sections, in their order, and the settings they all get. No torch here: the parent process stays light."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """One section: ``seconds`` is its estimate on an H200, by which it is skipped when less is left of the budget.

    ``alone``: it measures speed, so nothing else may run beside it; the others run at the same time.
    """

    letter: str
    title: str
    seconds: float
    module: str  # of this package
    alone: bool = True


SECTIONS = (
    Section("A", "card: matrix products, copies, attention backends", 10, "machine"),
    Section("B", "golden cases, fp32, TF32 off", 40, "golden", alone=False),
    Section("C", "losses: plain, eager and compiled", 20, "losses", alone=False),
    Section("D", "ViT of depth 4: fp32 and bf16, eager and compiled", 50, "vit", alone=False),
    Section("E", "resume: 6 steps against 3 + 3", 50, "resume", alone=False),
    Section("F", "device feed, saves, NCCL and FSDP2 on one rank", 35, "pieces", alone=False),
    Section("G", "ViT-B step", 70, "speed"),
    Section("H", "parts of a ViT-B step", 25, "parts"),
    Section("I", "ViT-S step, then end to end from files", 100, "speed"),
    Section("J", "ViT-L step", 85, "speed"),
)
LIMIT_FACTOR, LIMIT_EXTRA = 1.6, 15.0  # a section is ended after this multiple of its estimate and these seconds
CPU_SECONDS = 60.0  # the estimate of a section in its tiny form: starting up, on a machine that does other things


@dataclass(frozen=True)
class Settings:
    """What a section is told. ``tiny``: sizes for a CPU, which show that the section runs and nothing else."""

    device: str  # cuda or cpu
    out: str  # the JSON
    folder: str  # for what a section writes beside it; removed at the end
    arch: str | None = None  # of sections G and H instead of vit_base
    batch_scale: str = "auto"  # or a number
    cache: str | None = None  # folder of compile caches kept from call to call
    keys: tuple[str, ...] = ()  # key=value of the config, for what sections G to J train
    golden: str = "tests/golden/data"
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
    """The sections whose letters are in ``only`` (None: all) and not in ``skip``, comma-separated. ValueError: no such letter."""
    known = {section.letter for section in SECTIONS}
    wanted = letters(only) if only is not None else known
    left_out = letters(skip) if skip is not None else set()
    if unknown := sorted((wanted | left_out) - known):
        raise ValueError(f"no section {', '.join(unknown)}: there are {', '.join(sorted(known))}")
    return [section for section in SECTIONS if section.letter in wanted - left_out]


def letters(text: str) -> set[str]:
    return {letter.strip().upper() for letter in text.split(",") if letter.strip()}


def turns(sections: list[Section], device: str) -> list[list[Section]]:
    """``sections`` in order, those that may run at the same time together. On a CPU each runs alone: it has few cores."""
    if device == "cpu":
        return [[section] for section in sections]
    together = [section for section in sections if not section.alone]
    found: list[list[Section]] = []
    for section in sections:
        if section.alone:
            found.append([section])
        elif section is together[0]:
            found.append(together)
    return found


def estimate(section: Section, device: str) -> float:
    """Seconds that a section should take."""
    return section.seconds if device == "cuda" else CPU_SECONDS


def limit(section: Section, device: str, left: float) -> float:
    """Seconds after which a section is ended, when ``left`` remain."""
    return min(left, LIMIT_FACTOR * estimate(section, device) + LIMIT_EXTRA)
