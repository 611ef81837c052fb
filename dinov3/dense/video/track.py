"""Tracking measured: the masks of a first frame carried through videos, scored by region and boundary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.data.errors import DataError
from dinov3.dense.protocols import TrackProtocol
from dinov3.dense.report import LeftOut
from dinov3.dense.video.carry import Carrier, objects_of
from dinov3.dense.video.films import Film, Frame
from dinov3.dense.video.frame_features import FrameReader
from dinov3.dense.video.propagation import Rules
from dinov3.dense.video.region_boundary import per_object
from dinov3.features.extract import FeatureExtractor

SHOWN_FILMS, SHOWN_FRAMES = 2, 4


@dataclass
class Track:
    """What was found: scores of each object of each video."""

    videos: int  # that were looked at
    objects: list[dict[str, Any]] = field(default_factory=list)
    shown: list[tuple[str, Pixels, Tensor, Tensor]] = field(default_factory=list)  # name, frame, truth, prediction

    @property
    def scores(self) -> list[dict[str, Any]]:
        """Means over objects, as DAVIS has them."""
        j, f = (torch.tensor([row[key] for row in self.objects], dtype=torch.float64) for key in ("J", "F"))
        row = {"objects": len(j), "J&F": float((j.mean() + f.mean()) / 2), "J": float(j.mean()), "F": float(f.mean())}
        return [{**row, "frames": sum(int(o["frames"]) for o in self.objects), "per_object": self.objects}]


def rules_of(protocol: TrackProtocol) -> Rules:
    """The rules of propagation; ValueError for settings without a meaning."""
    return Rules(
        protocol.variant, protocol.context, protocol.radius, protocol.shape, protocol.topk, protocol.temperature
    )


def track(extractor: FeatureExtractor, films: list[Film], protocol: TrackProtocol, left_out: LeftOut) -> Track:
    """Follow every film, one frame in memory at a time. DataError when no film can be scored."""
    carrier_rules, reader = rules_of(protocol), FrameReader(extractor, protocol.short_side)
    found = Track(len(films))
    left_out.of = sum(len(film) for film in films)
    for number, film in enumerate(films):
        _follow(film, Carrier(reader, carrier_rules), protocol, left_out, found, show=number < SHOWN_FILMS)
    if not found.objects:
        raise DataError(f"no video can be scored: {left_out.rows[0]['reason'] if left_out.rows else 'no masks'}")
    return found


def _follow(
    film: Film, carrier: Carrier, protocol: TrackProtocol, left_out: LeftOut, found: Track, *, show: bool
) -> None:
    objects: list[int] = []
    scores: list[list[tuple[float, float]]] = []
    for number, frame in enumerate(film.frames()):
        if not isinstance(frame, Frame):
            left_out.add(*frame)
            if number == 0:
                return  # without its first frame a film has no labels
            continue
        if number == 0:
            if frame.labels is None or not (objects := objects_of(frame.labels)):
                left_out.add(frame.name, "the first mask has no object")
                return
            carrier.first(frame.pixels, frame.labels)
            continue
        said = carrier.next(frame.pixels)
        last = number == len(film) - 1
        if frame.labels is not None and not (last and protocol.skip_last):
            scores.append(per_object(said, frame.labels, objects))
            if show and number % max(1, len(film) // SHOWN_FRAMES) == max(1, len(film) // SHOWN_FRAMES) // 2:
                found.shown.append((f"{film.name} {number}", frame.pixels, frame.labels, said))
    if not scores:
        left_out.add(film.name, "no frame after the first has a mask")
        return
    table = torch.tensor(scores, dtype=torch.float64)  # [frames, objects, 2]
    for place, n in enumerate(objects):
        j, f = table[:, place].mean(0).tolist()
        above = float((table[:, place, 0] > 0.5).double().mean())
        found.objects.append({"video": film.name, "object": n, "J": j, "F": f, "J>0.5": above, "frames": len(table)})
