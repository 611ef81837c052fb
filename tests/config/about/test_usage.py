"""The scanner finds every way this project reads a key, and takes nothing else for one."""

from __future__ import annotations

import pytest

from dinov3.config.about import usage
from dinov3.config.about.usage import DERIVES, Blocks, dead_but_read, places_by_key, read_places, unread_keys
from dinov3.config.schema import Config, DinoConfig, GramConfig, OptimConfig, ScheduleConfig, StudentConfig
from dinov3.config.spec import leaves

ALL = Blocks(Config)
READS = {
    "chain": ("def f(cfg): return cfg.optim.lr", (OptimConfig, "lr")),
    "chain on self": ("class A:\n def f(self): return self.cfg.optim.lr", (OptimConfig, "lr")),
    "nested block": ("def f(cfg): return cfg.schedules.lr.peak", (ScheduleConfig, "peak")),
    "local name": ("def f(cfg):\n o = cfg.optim\n return o.lr", (OptimConfig, "lr")),
    "two local names": ("def f(cfg):\n o, g = cfg.optim, cfg.gram\n return g.ckpt", (GramConfig, "ckpt")),
    "name of a name": (
        "def f(cfg):\n c = cfg.dino\n s = c.local_loss_weight_schedule\n s.end",
        (ScheduleConfig, "end"),
    ),
    "annotated parameter": ("def f(student: StudentConfig): student.arch", (StudentConfig, "arch")),
    "parameter that may be null": ("def f(s: ScheduleConfig | None): s.peak", (ScheduleConfig, "peak")),
    "annotation as text": ("def f(s: 'schema.GramConfig'): s.ckpt", (GramConfig, "ckpt")),
    "config under another name": ("def f(c: Config): return c.optim.lr", (OptimConfig, "lr")),
    "block kept by an object": (
        "class A:\n def __init__(self, cfg: Config): self.x = cfg.gram\n def f(self): return self.x.ckpt",
        (GramConfig, "ckpt"),
    ),
    "annotated attribute": ("class A:\n x: GramConfig\n def f(self): return self.x.ckpt", (GramConfig, "ckpt")),
    "attribute of a base class": (
        "class B(A):\n def f(self): return self.x.ckpt\nclass A:\n x: GramConfig",
        (GramConfig, "ckpt"),
    ),
    "parameter named after its block": ("def f(optim_cfg): return optim_cfg.lr", (OptimConfig, "lr")),
    "getattr": ("def f(cfg): return getattr(cfg.optim, 'lr')", (OptimConfig, "lr")),
    "getattr in a loop": ("def f(cfg):\n for n in ('lr',): getattr(cfg.optim, n)", (OptimConfig, "lr")),
    "getattr over a constant": (
        "N = ('lr',)\ndef f(cfg): return [getattr(cfg.optim, n) for n in N]",
        (OptimConfig, "lr"),
    ),
    "getattr over own fields": (
        "class A:\n lr: float\n def f(cls, cfg):\n"
        "  names = [f.name for f in fields(cls)]\n  return [getattr(cfg.optim, n) for n in names]",
        (OptimConfig, "lr"),
    ),
    "loop over blocks": ("def f(cfg):\n for b in (cfg.dino, cfg.gram): b.loss_weight", (DinoConfig, "loss_weight")),
    "inner function": ("def f(cfg):\n o = cfg.optim\n def g(): return o.lr", (OptimConfig, "lr")),
    "lambda": ("def f(cfg): return lambda: cfg.optim.lr", (OptimConfig, "lr")),
    "default argument": ("def f(cfg, o=None):\n o = o or cfg.optim\n return o.lr", (OptimConfig, "lr")),
    "what every run has": ("def f(c: RunConfig): return c.optim.lr", (OptimConfig, "lr")),
    "all of a block at once": ("def f(cfg): return asdict(cfg.gram)", (GramConfig, "ckpt")),
    "changed copy": ("def f(cfg):\n o = replace(cfg.optim, lr=1)\n return o.epochs", (OptimConfig, "epochs")),
}
NO_READS = {
    "written": "def f(cfg): cfg.optim.lr = 1",
    "module of that name": "class A:\n def f(self): return self.student.patch_size",
    "other object": "def f(optimizer): return optimizer.optim.lr",
    "name shadowed by a parameter": "def f(cfg):\n o = cfg.optim\n def g(o): return o.lr",
    "word in a text": "x = 'cfg.optim.lr'",
    "check of a schema": "def _checks(cfg): return cfg.optim.lr",
    "block alone": "def f(cfg): return cfg.optim",
}


@pytest.mark.parametrize("name", READS)
def test_a_read_is_found_with_its_line(name: str) -> None:
    source, expected = READS[name]
    places = read_places({"x.py": source}, ALL)
    assert expected in places
    assert all(place.startswith("x.py:") for place in places[expected])


@pytest.mark.parametrize("name", NO_READS)
def test_what_is_no_read_is_not_found(name: str) -> None:
    assert not {
        r for r in read_places({"x.py": NO_READS[name]}, ALL) if r[0] is not Config and "Schedules" not in r[0].__name__
    }


def test_a_base_class_in_another_file_is_followed() -> None:
    places = read_places({"a.py": "class B(A):\n def f(self): self.x.ckpt", "b.py": "class A:\n x: GramConfig"}, ALL)
    assert places[GramConfig, "ckpt"] == ["a.py:2"]


def test_lines_are_listed_once_and_in_order() -> None:
    source = "def f(cfg):\n cfg.optim.lr\n cfg.optim.lr + cfg.optim.lr"
    assert read_places({"x.py": source}, ALL)[OptimConfig, "lr"] == ["x.py:2", "x.py:3"]


def test_every_leaf_is_accounted_for() -> None:
    assert set(places_by_key()) == {leaf.key for leaf in leaves(Config, Config())}


def test_of_the_config_folder_only_derived_values_count_as_readers() -> None:
    inside = {
        p.partition(":")[0] for places in places_by_key().values() for p in places if p.startswith("dinov3/config/")
    }
    assert inside == {f"dinov3/config/{name}.py" for name in DERIVES}


def test_unread_and_dead_keys_follow_from_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_read = dict.fromkeys(places_by_key(), ())
    monkeypatch.setattr(usage, "places_by_key", lambda task: {**nothing_read, "train.cache_dataset": ("x.py:1",)})
    unread = unread_keys()
    assert "optim.lr" in unread
    assert not {"train.saveckp_freq", "hrft.enabled", "optim.optimizer", "ibot.separate_head"} & set(unread)
    assert dead_but_read() == ["train.cache_dataset"]
