"""Pairs of images with points that show the same: SPair-71k, COCO keypoints, NAVI, and images warped by a homography."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.data.errors import BadImage, DataError
from dinov3.data.randomness import generator
from dinov3.system.json_file import JsonError, as_form, read_value


@dataclass(frozen=True)
class KeypointPair:
    """Two image files, the same points in both (x, y in pixels), and what PCK measures errors by."""

    name: str
    source: Path
    target: Path
    source_xy: Tensor  # [N, 2] float64
    target_xy: Tensor  # [N, 2]
    length: float  # px: the longer side of the target object's box


SPAIR = {
    **dict.fromkeys(("category", "src_imname", "trg_imname"), str),
    "src_kps": [[float]],
    "trg_kps": [[float]],
    "trg_bndbox": [float],
}
COCO = {"images": [{"file_name": str}], "annotations": [{"keypoints": [float], "bbox": [float], "category_id": int}]}


def chosen_pairs(count: int, most: int, seed: int) -> list[int]:
    """Which pairs are used: all of them in order, or ``most`` drawn by ``seed``, in order."""
    if not most or count <= most:
        return list(range(count))
    return sorted(generator(seed, "pairs").choice(count, most, replace=False).tolist())


def spair(root: Path, split: str = "test") -> list[KeypointPair]:
    """SPair-71k: ``PairAnnotation/test/*.json`` and ``JPEGImages/CATEGORY/*``; errors by the target's box."""
    files = sorted((root / "PairAnnotation" / split).glob("*.json"))
    if not files:
        raise DataError(f"{root}: no PairAnnotation/{split}/*.json: give the folder of SPair-71k")
    return [_spair_pair(root, path) for path in files]


def _spair_pair(root: Path, path: Path) -> KeypointPair:
    told = read_json(path)
    try:
        as_form(told, SPAIR)
        folder = root / "JPEGImages" / Path(told["category"]).name  # names in the file lead nowhere else
        left, top, right, bottom = told["trg_bndbox"]
        return KeypointPair(
            path.stem,
            folder / Path(told["src_imname"]).name,
            folder / Path(told["trg_imname"]).name,
            _points(told["src_kps"]),
            _points(told["trg_kps"]),
            max(right - left, bottom - top),
        )
    except (LookupError, TypeError, ArithmeticError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: not a pair of SPair-71k: {type(error).__name__}: {error}") from error


def coco_keypoints(root: Path, most: int, seed: int) -> list[KeypointPair]:
    """Pairs of objects of one category in a COCO keypoint file: ``ROOT/*.json`` (one) and its images under ROOT.

    Points visible in both objects; errors by the target's box. Pairs of different images, ``most`` of them (0: all).
    """
    files = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    if len(files) != 1:
        raise DataError(f"{root}: {len(files)} JSON files here and in annotations/: one of COCO keypoints is expected")
    told = read_json(files[0])
    try:
        as_form(told, COCO)
        images = {row["id"]: _found(root, row["file_name"]) for row in told["images"]}
        objects = [_Object.read(row, images) for row in told["annotations"] if row.get("num_keypoints", 1)]
    except (LookupError, TypeError, ArithmeticError, ValueError, RuntimeError) as error:
        raise DataError(f"{files[0]}: not COCO keypoints: {type(error).__name__}: {error}") from error
    if not objects:
        raise DataError(f"{files[0]}: no annotation with keypoints")
    both = [
        (a, b)
        for a in range(len(objects))
        for b in range(len(objects))
        if objects[a].category == objects[b].category and objects[a].image != objects[b].image
    ]
    pairs = [_object_pair(objects[both[i][0]], objects[both[i][1]]) for i in chosen_pairs(len(both), most, seed)]
    kept = [pair for pair in pairs if len(pair.source_xy)]
    if not kept:
        raise DataError(f"{files[0]}: no two objects of one category on different images share a visible keypoint")
    return kept


@dataclass(frozen=True)
class _Object:
    image: Path
    category: int
    points: Tensor  # [K, 2]
    visible: Tensor  # [K]
    length: float

    @staticmethod
    def read(row: dict[str, Any], images: dict[Any, Path]) -> _Object:
        triples = torch.tensor(row["keypoints"], dtype=torch.float64).view(-1, 3)
        _, _, width, height = (float(x) for x in row["bbox"])
        return _Object(
            images[row["image_id"]], int(row["category_id"]), triples[:, :2], triples[:, 2] > 0, max(width, height)
        )


def _object_pair(a: _Object, b: _Object) -> KeypointPair:
    if len(a.points) != len(b.points):
        raise DataError(
            f"{a.image} and {b.image}: objects of one category with {len(a.points)} and {len(b.points)} points"
        )
    both = a.visible & b.visible
    return KeypointPair(f"{a.image.name} {b.image.name}", a.image, b.image, a.points[both], b.points[both], b.length)


def _found(root: Path, name: str) -> Path:
    plain = Path(name).name  # a path in the file leads nowhere but into this folder
    return next((root / folder / plain for folder in ("images", "") if (root / folder / plain).is_file()), root / plain)


def _points(rows: Sequence[Sequence[float]]) -> Tensor:
    points = torch.tensor(rows, dtype=torch.float64).view(-1, 2)
    if not len(points) or not bool(torch.isfinite(points).all()):
        raise ValueError("no keypoints, or one that is not a number")
    return points


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises DataError."""
    try:
        return read_value(path)
    except (OSError, JsonError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error


def random_homography(size: tuple[int, int], strength: float, rng: np.random.Generator) -> Tensor:
    """``[3, 3]`` float64 that moves each corner of an image by at most ``strength`` of its side, inwards."""
    height, width = size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    inwards = np.where(corners > 0, -1.0, 1.0) * np.array([width, height])
    return homography_of(corners, corners + strength * rng.random((4, 2)) * inwards)


def homography_of(source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> Tensor:
    """The homography that takes four points ``[4, 2]`` to four others."""
    rows, right = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    solved = np.linalg.solve(np.array(rows, dtype=np.float64), np.array(right, dtype=np.float64))
    return torch.from_numpy(np.append(solved, 1.0).reshape(3, 3))


def warped(image: Tensor, homography: Tensor) -> Tensor:
    """``image [C, H, W]`` seen through ``homography``, of the same size.

    What it does not show is 0, the mean colour of a normalised image: mirrored content would be a second right answer.
    """
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1).double() @ torch.linalg.inv(homography).T
    flat = places[..., :2] / places[..., 2:]
    grid = 2 * flat / torch.tensor([width, height], dtype=torch.float64) - 1
    mode = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}
    return F.grid_sample(image[None], grid[None].to(image.dtype), **mode)[0]  # type: ignore[arg-type]


def check_points(points: Tensor, height: int, width: int) -> None:
    """Raise BadImage for a point outside the image."""
    outside = (points < 0).any(1) | (points[:, 0] > width) | (points[:, 1] > height)
    if bool(outside.any()):
        raise BadImage(f"keypoint {points[outside][0].tolist()} lies outside {width}x{height}")
