"""Correspondence measured: frozen features, the same without their positional bias, and plain colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage, DataError
from dinov3.data.randomness import generator
from dinov3.data.sources.source import Source
from dinov3.dense.frozen import patch_maps
from dinov3.dense.matching.correspondence import best_match, centres, descriptors, match_homography, pooled_pck
from dinov3.dense.matching.navi import RADII, Photograph, photograph_pairs, read_depth
from dinov3.dense.matching.pairs import KeypointPair, check_points, chosen_pairs, random_homography, warped
from dinov3.dense.matching.position_bias import estimate_position_bias, noise_images, without_position
from dinov3.dense.protocols import MatchProtocol
from dinov3.dense.report import LeftOut
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor
from dinov3.system.bars import Counting, counted

ALPHAS = (0.05, 0.1, 0.2)
PATCHES = (0.5, 1.0, 2.0)  # radii of homography recall, in patches: a perfect matcher is off by up to 0.71
COLOURS = 4  # a patch is described by 4 x 4 mean colours: the baseline that any feature has to beat
SHOWN = 4
TASKS = ("homography", "spair", "navi", "keypoints")


def check(protocol: MatchProtocol) -> None:
    """FeatureError for settings without a meaning."""
    if protocol.task not in TASKS or protocol.descriptor not in ("nearest", "bilinear"):
        raise FeatureError(f"task: {', '.join(TASKS)}; descriptor: nearest, bilinear")
    if (
        not 0 < protocol.strength < 0.5
        or protocol.most_pairs < 0
        or (protocol.debias_images < 2 and protocol.debias_images != 0)
    ):
        raise FeatureError("strength between 0 and 0.5, most_pairs at least 0, debias_images 0 or at least 2")


@dataclass
class Matcher:
    """Patch features ``[h, w, D]`` of prepared images, by each way of describing them."""

    extractor: FeatureExtractor
    directions: Tensor | None  # [D, r] of the positional bias

    def of(self, image: Tensor) -> dict[str, Tensor]:
        """``{"raw": …, "debiased": …, "colour": …}`` of one prepared image ``[C, H, W]``."""
        raw = patch_maps(self.extractor, image[None])[0].permute(1, 2, 0)
        found = {"raw": raw}
        if self.directions is not None:
            found["debiased"] = without_position(raw, self.directions)
        return {**found, "colour": colour_patches(image, self.extractor.preprocess.patch)}


def colour_patches(image: Tensor, patch: int) -> Tensor:
    """``[h, w, C * 16]``: the mean colours of a 4 x 4 grid in each patch of ``image [C, H, W]``."""
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    pooled = F.adaptive_avg_pool2d(
        image[None, :, : rows * patch, : columns * patch], (rows * COLOURS, columns * COLOURS)
    )
    tiles = pooled[0].unflatten(1, (rows, COLOURS)).unflatten(3, (columns, COLOURS))  # [C, h, 4, w, 4]
    return tiles.permute(1, 3, 0, 2, 4).flatten(2)


def matcher_for(extractor: FeatureExtractor, protocol: MatchProtocol) -> tuple[Matcher, dict[str, Any]]:
    """The matcher, and what was found of the positional bias. The images are all of the preprocessing's size."""
    if not protocol.debias_images:
        return Matcher(extractor, None), {}
    size = fixed_size(extractor)
    channels = len(extractor.preprocess.mean)
    maps = patch_maps(extractor, noise_images(protocol.debias_images, channels, size, protocol.seed))
    bias = estimate_position_bias(maps, protocol.debias_share)
    facts = {
        "estimated_on": f"{protocol.debias_images} images of noise",
        "directions_removed": bias.directions.shape[1],
        "share_of_variance": bias.share_of_variance,
    }
    return Matcher(extractor, bias.directions), facts


def fixed_size(extractor: FeatureExtractor) -> tuple[int, int]:
    """(height, width) every image gets. DataError for --size native."""
    size = extractor.preprocess.size
    if size is None:
        raise DataError("--size native gives grids of many sizes: give px, for example --size 224")
    return (size, size) if isinstance(size, int) else size


@dataclass
class Matches:
    """What was found."""

    scores: list[dict[str, Any]]
    pairs: int
    facts: dict[str, Any]
    shown: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)  # source, target, [N, 2] twice


def homographies(
    extractor: FeatureExtractor,
    source: Source,
    protocol: MatchProtocol,
    left_out: LeftOut,
    counting: Counting = counted,
) -> Matches:
    """Each image against itself seen through a homography that is a function of seed and index: no labels are needed."""
    matcher, facts = matcher_for(extractor, protocol)
    height, width = fixed_size(extractor)
    patch = extractor.preprocess.patch
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    shown: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    chosen = chosen_pairs(len(source), protocol.most_pairs, protocol.seed)
    left_out.of = len(chosen)
    with counting("matching", len(chosen), "images") as count:
        for index in chosen:
            count(1)
            try:
                image = extractor.preprocess(read_image(source, index, extractor.preprocess.reading))
            except BadImage as error:
                left_out.add(source.name(index), str(error))
                continue
            homography = random_homography(
                (height, width), protocol.strength, generator(protocol.seed, "homography", index)
            )
            target = warped(image, homography)
            of_source, of_target = matcher.of(image), matcher.of(target)
            for name in of_source:
                match = match_homography(of_source[name], of_target[name], homography, patch)
                found.setdefault(name, []).append((match.error[match.inside], match.mutual[match.inside]))
                if name == "raw" and len(shown) < SHOWN:
                    inside = match.inside & match.mutual
                    places = centres((height // patch, width // patch), patch)
                    shown.append((image, target, places[inside], places[match.match[inside]]))
    if not found:
        raise DataError(f"none of the images can be used: {left_out.rows[0]['reason']}")
    return Matches([_homography_row(name, rows, patch) for name, rows in found.items()], len(chosen), facts, shown)


def _homography_row(name: str, rows: Sequence[tuple[Tensor, Tensor]], patch: int) -> dict[str, Any]:
    error, mutual = torch.cat([e for e, _ in rows]), torch.cat([m for _, m in rows])
    row: dict[str, Any] = {"features": name, "points": len(error), "mean_error_px": float(error.mean())}
    for radius in PATCHES:
        row[f"recall@{radius:g}p"] = float((error <= radius * patch).double().mean())
    row["mutual"] = float(mutual.double().mean())
    row["mutual_recall@1p"] = float((error[mutual] <= patch).double().mean())
    return row


def keypoints(
    extractor: FeatureExtractor, pairs: Sequence[KeypointPair], protocol: MatchProtocol, left_out: LeftOut
) -> Matches:
    """PCK of annotated pairs. Images are resized to one size; errors are in pixels of the target as it is on disk."""
    matcher, facts = matcher_for(extractor, protocol)
    left_out.of = len(pairs)
    errors: dict[str, list[Tensor]] = {}
    lengths: list[float] = []
    shown: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for pair in pairs:
        try:
            source, source_scale = _read(extractor, pair.source, pair.source_xy)
            target, target_scale = _read(extractor, pair.target, pair.target_xy)
        except BadImage as error:
            left_out.add(pair.name, str(error))
            continue
        lengths.append(pair.length)
        of_source, of_target = matcher.of(source), matcher.of(target)
        for name in of_source:
            places = pair.source_xy * source_scale
            said = _matched(of_source[name], of_target[name], places, extractor.preprocess.patch, protocol.descriptor)
            errors.setdefault(name, []).append((said / target_scale - pair.target_xy).norm(dim=1))
            if name == "raw" and len(shown) < SHOWN:
                shown.append((source, target, places, said))
    if not lengths:
        raise DataError(f"no pair can be used: {left_out.rows[0]['reason']}")
    rows = []
    for name, each in errors.items():
        row: dict[str, Any] = {"features": name, "points": sum(len(e) for e in each)}
        for alpha in ALPHAS:
            shares = pooled_pck(each, lengths, alpha)
            row[f"PCK@{alpha:g}/point"], row[f"PCK@{alpha:g}/pair"] = shares["per_point"], shares["per_pair"]
        rows.append(row)
    return Matches(rows, len(lengths), facts, shown)


def _read(extractor: FeatureExtractor, path: Path, points: Tensor) -> tuple[Tensor, Tensor]:
    """(prepared image, (x, y) prepared pixels a stored pixel)."""
    from dinov3.data.decode import decode

    try:
        pixels = decode(path.read_bytes())
    except OSError as error:
        raise BadImage(f"{path.name}: {error.strerror or error}") from error
    check_points(points, pixels.shape[0], pixels.shape[1])
    image = extractor.preprocess(pixels)
    scale = torch.tensor([image.shape[2] / pixels.shape[1], image.shape[1] / pixels.shape[0]], dtype=torch.float64)
    return image, scale


def _matched(source: Tensor, target: Tensor, points: Tensor, patch: int, how: str) -> Tensor:
    match, _ = best_match(descriptors(source, points, patch, how), target)
    return centres((target.shape[0], target.shape[1]), patch)[match]


def navi(extractor: FeatureExtractor, root: Path, protocol: MatchProtocol, left_out: LeftOut) -> Matches:
    """Recall in millimetres on the object: each source patch on it is matched; a match beside the object is a miss."""
    matcher, facts = matcher_for(extractor, protocol)
    pairs = photograph_pairs(root)
    chosen = [pairs[i] for i in chosen_pairs(len(pairs), protocol.most_pairs, protocol.seed)]
    left_out.of = len(chosen)
    errors: dict[str, list[Tensor]] = {}
    used = 0
    for a, b in chosen:
        try:
            image_a, place_a, on_a = _on_object(extractor, a)
            image_b, place_b, _ = _on_object(extractor, b)
        except BadImage as error:
            left_out.add(f"{a.image} {b.image}", str(error))
            continue
        used += 1
        of_a, of_b = matcher.of(image_a), matcher.of(image_b)
        for name in of_a:
            match, _ = best_match(of_a[name].flatten(0, 1)[on_a], of_b[name])
            off = (place_b[match] - place_a[on_a]).norm(dim=1)
            errors.setdefault(name, []).append(off.nan_to_num(torch.inf))
    if not used:
        raise DataError(f"no pair can be used: {left_out.rows[0]['reason']}")
    rows = []
    for name, each in errors.items():
        row: dict[str, Any] = {"features": name, "points": sum(len(e) for e in each)}
        for radius in RADII:
            row[f"recall@{radius:g}mm"] = float(torch.cat(each).le(radius).double().mean())
        rows.append(row)
    return Matches(rows, used, facts)


def _on_object(extractor: FeatureExtractor, photograph: Photograph) -> tuple[Tensor, Tensor, Tensor]:
    """(prepared image, place on the object of each patch centre ``[P, 3]``, which of them lie on it ``[P]``)."""
    image, scale = _read(extractor, photograph.image, torch.zeros(0, 2))
    depth = read_depth(photograph.depth)
    if tuple(depth.shape) != photograph.size:
        raise BadImage(f"{photograph.depth.name} is {tuple(depth.shape)}, its annotation says {photograph.size}")
    patch = extractor.preprocess.patch
    xy = centres((image.shape[1] // patch, image.shape[2] // patch), patch) / scale
    column, row = xy[:, 0].long().clamp(max=depth.shape[1] - 1), xy[:, 1].long().clamp(max=depth.shape[0] - 1)
    at = depth[row, column]
    return image, photograph.object_points(xy, at), at.isfinite()
