"""What a survey of a dataset says, for people (lines of text) and for programs (a dict)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from dinov3.config.derived import crop_sizes, largest_global_crop
from dinov3.config.schema import Config
from dinov3.config.shown import shown
from dinov3.data.sources.mixture import left_out_lines
from dinov3.data.sources.source import PartlyDamaged, Source
from dinov3.survey.survey import NO_LABEL, Survey

SHOWN = 5  # lines of a long list; all of them are in the JSON
SHORT_SIDES = (0, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 10**9)  # px, where bins begin
BAR = 40  # characters
# What rasters have where nothing was measured, by habit; of GDAL's tag they are left out already.
NO_DATA = {-9999.0, -99999.0, -32768.0, -32767.0, -(2.0**31), 2.0**31 - 1} | {
    s * float(np.finfo("f4").max) for s in (1, -1)
}


@dataclass
class DataReport:
    """Everything that is reported. Sizes are in px; names are those of the source."""

    dataset: str
    images: int
    examined: int
    readable: int
    unreadable: list[dict[str, str]]  # name, reason
    damaged: dict[str, str]  # shards of which only a part can be read, and why
    formats: dict[str, int]
    short_side: dict[str, int]  # histogram: "256-383" -> images
    sides: dict[str, list[int]]  # least, median, largest width and height
    equal_files: list[list[str]]
    lookalikes: list[list[str]]
    blank: int
    labels: dict[str, int]  # class -> images
    unlabelled: int
    channels: dict[str, dict[str, list[float]]]  # number of channels -> mean, std
    decode_ms: dict[str, float]  # median and mean an image, processor time, reading included
    left_out: list[str] = field(default_factory=list)  # what lies beside the images, by suffix, and why
    values: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # kind of more than 8 bits -> images, least, largest
    transparent: dict[str, float] = field(default_factory=dict)  # images with an alpha channel, their mean opacity
    resolution: dict[str, float] = field(default_factory=dict)
    value_range: list[float] | None = None  # data.value_range
    global_sizes: list[int] = field(default_factory=list)
    local_sizes: list[int] = field(default_factory=list)

    @property
    def unreadable_share(self) -> float:
        """Of the examined images."""
        return len(self.unreadable) / max(self.examined, 1)

    def lines(self) -> Iterator[str]:
        """The text, in which nothing steers a terminal."""
        return map(shown, self._lines())

    def _lines(self) -> Iterator[str]:
        part = "" if self.examined == self.images else f", {self.examined:,} of them looked at"
        yield f"{self.dataset}: {counted(self.images, 'image')}{part}"
        yield row("readable", f"{self.readable:,}; unreadable {len(self.unreadable):,} ({self.unreadable_share:.2%})")
        yield from listing([f"{bad['name']}: {bad['reason']}" for bad in self.unreadable])
        if self.damaged:
            yield row("damaged", f"{counted(len(self.damaged), 'file')} of which only a part can be read")
            yield from listing([f"{name}: {reason}" for name, reason in self.damaged.items()])
        if self.left_out:
            yield row("left out", self.left_out[0])
            yield from listing(self.left_out[1:])
        if not self.readable:
            return
        yield row("formats", ", ".join(f"{kind} {n:,}" for kind, n in self.formats.items()))
        yield from self._value_lines()
        yield from self._size_lines()
        yield from self._label_lines()
        yield from self._duplicate_lines()
        ms = self.decode_ms["mean"]
        yield row(
            "decoding", f"{ms:.2f} ms an image (median {self.decode_ms['median']:.2f}): {1e3 / ms:,.0f} images/s a core"
        )
        yield from self._channel_lines()

    def _value_lines(self) -> Iterator[str]:
        for kind, found in self.values.items():
            low, high = found["low"], found["high"]
            yield row("values", f"{kind}: {counted(int(found['images']), 'image')} of values from {low:g} to {high:g}")
            yield row("", value_advice(kind, low, high, self.value_range))
        if self.transparent:
            images, opacity = int(self.transparent["images"]), self.transparent["opacity"]
            yield row(
                "alpha", f"{counted(images, 'image')}, {opacity:.0%} opaque on average, laid on white; a fourth band"
            )
            yield row("", "(near infrared) that a TIFF marks as alpha is taken for one: write it without the mark")

    def _size_lines(self) -> Iterator[str]:
        for name, (least, median, most) in self.sides.items():
            yield row(name, f"{least} to {most} px, median {median}")
        largest = max(self.short_side.values())
        for n, (bin_, images) in enumerate(self.short_side.items()):
            bar = "█" * math.ceil(BAR * images / largest)
            yield row("short side" if n == 0 else "", f"{bin_:>9} px {images:>9,} {bar}")
        shares, size = self.resolution, self.global_sizes[-1]
        yield row(
            "resolution",
            f"{shares['images_below_global_crop']:.1%} of the images have a short side below the global crop ({size} px);",
        )
        yield row(
            "",
            f"{shares['global_crops_enlarged']:.1%} of the global and {shares['local_crops_enlarged']:.1%} of the local "
            f"crops ({'/'.join(map(str, self.local_sizes))} px) will be enlarged",
        )
        advised = int(shares["advised_global_crop"])
        if shares["images_below_global_crop"] > 0.25 and advised:
            yield row("", f"three quarters of the images have at least {advised} px: crops.global_crops_size={advised}")

    def _label_lines(self) -> Iterator[str]:
        if not self.labels:
            yield row("labels", "none")
            return
        counts = sorted(self.labels.values())
        none = f"; {counted(self.unlabelled, 'image')} without" if self.unlabelled else ""
        yield row("labels", f"{counted(len(counts), 'class')} of {counts[0]:,} to {counts[-1]:,} images{none}")

    def _duplicate_lines(self) -> Iterator[str]:
        for name, found in (("equal files", self.equal_files), ("lookalikes", self.lookalikes)):
            more = sum(len(group) - 1 for group in found)
            yield row(name, f"{more:,} too many, in {counted(len(found), 'group')}" if found else "none")
            yield from listing([" = ".join(group[:4]) + (" = …" if len(group) > 4 else "") for group in found])
        if self.blank:
            yield row("blank", f"{counted(self.blank, 'image')} with almost no contrast")

    def _channel_lines(self) -> Iterator[str]:
        if len(self.channels) > 1:
            kinds = ", ".join(self.channels)
            yield row("channels", f"the images do not agree: {kinds}; a model takes one number of channels")
            return
        yield row("channels", "mean and standard deviation, for the YAML:")
        yield from self.yaml_lines()

    def yaml_lines(self) -> list[str]:
        """The statistics as keys of the config."""
        ((number, moments),) = self.channels.items()
        student = [] if number == "3" else ["student:", f"  in_chans: {number}"]
        keys = [
            f"  {key}: [{', '.join(f'{v:.4f}' for v in moments[name])}]"
            for key, name in (("rgb_mean", "mean"), ("rgb_std", "std"))
        ]
        return [*student, "crops:", *keys]


def value_advice(kind: str, low: float, high: float, chosen: Sequence[float] | None) -> str:
    """What is made of these values, and what to do about it."""
    if chosen is not None:
        return f"data.value_range: {chosen[0]:g} is black, {chosen[1]:g} white"
    if " F" in kind or (" I" in kind and "16" not in kind and "PNG" not in kind):
        marks = [f"{value:g}" for value in (low, high) if value in NO_DATA]
        ends = ", ".join(name if value in NO_DATA else f"{value:g}" for name, value in (("LOW", low), ("HIGH", high)))
        told = f", also {' and '.join(marks)}, which stands for no data" if marks else ""
        return f"each image is scaled by its own range{told}; one for all, of true values: data.value_range=[{ends}]"
    top = 2 ** max(8, math.ceil(math.log2(high + 1))) - 1
    if top < 2**16 - 1:
        return f"0 is black, 65535 white, so they are dark: data.value_range=[0, {top}]"
    return "0 is black, 65535 white"


def row(name: str, text: str) -> str:
    return f"  {name:<12} {text}"


def counted(number: int, noun: str) -> str:
    """``1 class``, ``2 classes``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def listing(items: Sequence[str]) -> Iterator[str]:
    """The first few, and how many more there are."""
    for item in items[:SHOWN]:
        yield row("", item)
    if len(items) > SHOWN:
        yield row("", f"and {len(items) - SHOWN:,} more (--out DIR writes all of them)")


def report_of(dataset: str, source: Source, found: Survey, cfg: Config) -> DataReport:
    """The report on ``found``; advice is for ``cfg``."""
    facts = found.facts
    readable = len(facts)
    kinds = Counter(kind.decode() for kind in facts["kind"].tolist())
    labels, counts = np.unique(facts["label"][facts["label"] != NO_LABEL], return_counts=True)
    classes = getattr(source, "classes", None)  # names, where classes are not numbers
    opacity = facts["opacity"][~np.isnan(facts["opacity"])]
    seconds = facts["seconds"].astype(float) * 1e3 if readable else np.zeros(1)
    return DataReport(
        dataset=dataset,
        images=found.images,
        examined=found.examined,
        readable=readable,
        unreadable=[{"name": bad.name, "reason": bad.reason} for _, bad in found.bad],
        damaged=dict(source.damaged) if isinstance(source, PartlyDamaged) else {},
        formats=dict(kinds.most_common()),
        short_side=histogram(np.minimum(facts["height"], facts["width"])),
        sides={name: spread_of(facts[name]) for name in ("width", "height")} if readable else {},
        equal_files=[[source.name(i) for i in group] for group in found.copies()],
        lookalikes=[[source.name(i) for i in group] for group in found.lookalikes()],
        blank=int(facts["blank"].sum()),
        labels={
            class_name(classes if isinstance(classes, list) else [], n): c
            for n, c in zip(labels.tolist(), counts.tolist(), strict=True)
        },
        unlabelled=int((facts["label"] == NO_LABEL).sum()),
        channels={
            str(c): {"mean": m.mean.round(6).tolist(), "std": m.std.round(6).tolist()}
            for c, m in sorted(found.moments.items())
        },
        decode_ms={"median": float(np.median(seconds)), "mean": float(max(seconds.mean(), 1e-6))},
        left_out=left_out_lines(source),
        values=value_ranges(facts),
        value_range=cfg.data.value_range,
        transparent={"images": len(opacity), "opacity": float(opacity.mean())} if len(opacity) else {},
        resolution=resolution_shares(facts, cfg) if readable else {},
        global_sizes=sorted({sizes.global_size for sizes in crop_sizes(cfg)}),
        local_sizes=sorted({sizes.local_size for sizes in crop_sizes(cfg)}),
    )


def value_ranges(facts: Any) -> dict[str, dict[str, float]]:
    """Kind of more than 8 bits a value -> how many images, least and largest value."""
    deep = facts[~np.isnan(facts["high"])]
    found = {}
    for kind in np.unique(deep["kind"]):
        of_kind = deep[deep["kind"] == kind]
        low, high = float(of_kind["low"].min()), float(of_kind["high"].max())
        found[kind.decode()] = {"images": len(of_kind), "low": low, "high": high}
    return found


def class_name(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else str(label)


def spread_of(values: Any) -> list[int]:
    """Least, median, largest."""
    return [int(values.min()), int(np.median(values)), int(values.max())]


def histogram(short_sides: Any) -> dict[str, int]:
    """Images a bin, empty bins at the ends left out."""
    counts, _ = np.histogram(short_sides, bins=SHORT_SIDES)
    used = np.flatnonzero(counts)
    bins = range(used[0], used[-1] + 1) if len(used) else range(0)
    names = [f"{low}-{high - 1}" if high < SHORT_SIDES[-1] else f"{low}-" for low, high in pairwise(SHORT_SIDES)]
    return {names[n]: int(counts[n]) for n in bins}


def resolution_shares(facts: Any, cfg: Config) -> dict[str, float]:
    """Shares of images and crops too small for the crops of ``cfg``, and a global crop size that most images fill."""
    crops, patch = cfg.crops, cfg.student.patch_size
    short = np.minimum(facts["height"], facts["width"])
    area = facts["height"].astype(float) * facts["width"]
    quarter = int(np.quantile(short, 0.25))
    return {
        "images_below_global_crop": float((short < largest_global_crop(cfg)).mean()),
        "global_crops_enlarged": sum(
            s.share * enlarged(area, s.global_size, crops.global_crops_scale) for s in crop_sizes(cfg)
        ),
        "local_crops_enlarged": sum(
            s.share * enlarged(area, s.local_size, crops.local_crops_scale) for s in crop_sizes(cfg)
        ),
        "advised_global_crop": float(quarter // patch * patch),
    }


def enlarged(area: Any, size: int, scale: Sequence[float]) -> float:
    """Share of crops, ``scale`` (uniform) of ``area [N]`` px² each, that are smaller than ``size`` squared."""
    low, high = scale
    share_of_area = size**2 / area
    if high == low:
        return float((low < share_of_area).mean())
    return float(((share_of_area - low) / (high - low)).clip(0, 1).mean())
