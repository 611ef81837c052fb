"""NAVI: photographs of scanned objects with camera and depth, so that every pixel has its place on the object.

``ROOT/OBJECT/SCENE/annotations.json`` lists images with a camera: rotation ``q`` (w, x, y, z) and translation ``t`` from
the object to the camera (OpenGL: x right, y up, the camera looks along -z), ``focal_length`` in pixels, the optical axis
through the middle. ``depth/NAME.png`` holds 1 / depth times 655,350 in 16 bit; lengths are millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.errors import BadImage, DataError
from dinov3.dense.matching.pairs import read_json
from dinov3.dense.truth_files import read_numbers
from dinov3.system.json_file import as_form

INVERSE_DEPTH = 65_535.0 * 10
MOST_TURNED = 120.0  # degrees between the two cameras of a pair
FORM = [
    {
        "filename": str,
        "image_size": [int],
        "camera": {"q": [float], "t": [float], "focal_length": float},
    }
]
RADII = (10.0, 20.0, 50.0)  # mm of recall; DINOv3 and Probe3D report 2 cm


@dataclass(frozen=True)
class Photograph:
    """One image of an object."""

    image: Path
    depth: Path
    size: tuple[int, int]  # height, width
    rotation: NDArray[np.float64]  # [3, 3] object to camera
    translation: NDArray[np.float64]  # [3] mm
    focal: float  # px

    def object_points(self, xy: Tensor, depth: Tensor) -> Tensor:
        """Places ``[N, 3]`` on the object, in mm, of pixels ``xy [N, 2]`` at ``depth [N]`` mm."""
        height, width = self.size
        x = (xy[:, 0] - width / 2) * depth / self.focal
        y = -(xy[:, 1] - height / 2) * depth / self.focal
        camera = torch.stack([x, y, -depth], dim=1) - torch.from_numpy(self.translation)
        return camera @ torch.from_numpy(self.rotation)  # R^T (c - t), as rows

    def pixels(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(pixels ``[N, 2]``, depth ``[N]``) where places on the object are seen."""
        height, width = self.size
        camera = points @ torch.from_numpy(self.rotation).T + torch.from_numpy(self.translation)
        depth = -camera[:, 2]
        x = camera[:, 0] * self.focal / depth + width / 2
        y = -camera[:, 1] * self.focal / depth + height / 2
        return torch.stack([x, y], dim=1), depth


def read_depth(path: Path) -> Tensor:
    """Depth ``[H, W]`` in mm float64; infinite where there is no object. Raises BadImage."""
    values, mode = read_numbers(path)
    if not mode.startswith("I"):
        raise BadImage(f"{path.name}: mode {mode}, not 16 bit")
    return INVERSE_DEPTH / torch.from_numpy(values.astype(np.float64))


def rotation_of(q: list[float]) -> NDArray[np.float64]:
    """The rotation matrix of a quaternion (w, x, y, z) of any length. ValueError for zero."""
    length = float(np.linalg.norm(q))
    if len(q) != 4 or not length > 0:
        raise ValueError(f"quaternion {q}")
    w, x, y, z = (value / length for value in q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def turned(a: Photograph, b: Photograph) -> float:
    """Degrees between the orientations of two cameras."""
    cosine = (np.trace(a.rotation @ b.rotation.T) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def photograph_pairs(root: Path) -> list[tuple[Photograph, Photograph]]:
    """All ordered pairs of one object whose cameras are at most MOST_TURNED degrees apart. Raises DataError."""
    by_object: dict[str, list[Photograph]] = {}
    for path in sorted(root.glob("*/*/annotations.json")):
        by_object.setdefault(path.parent.parent.name, []).extend(_photographs(path))
    pairs = [
        (a, b)
        for photographs in by_object.values()
        for a in photographs
        for b in photographs
        if a is not b and turned(a, b) <= MOST_TURNED
    ]
    if not pairs:
        raise DataError(f"{root}: no OBJECT/SCENE/annotations.json with two images: give the folder of NAVI")
    return pairs


def _photographs(path: Path) -> list[Photograph]:
    rows: list[dict[str, Any]] = read_json(path)
    try:
        as_form(rows, FORM)
        return [_photograph(path.parent, row) for row in rows]
    except (LookupError, TypeError, ArithmeticError, ValueError) as error:
        raise DataError(f"{path}: not an annotation file of NAVI: {type(error).__name__}: {error}") from error


def _photograph(folder: Path, row: dict[str, Any]) -> Photograph:
    name, camera = Path(row["filename"]).name, row["camera"]
    height, width = row["image_size"]
    return Photograph(
        folder / "images" / name,
        folder / "depth" / f"{Path(name).stem}.png",
        (height, width),
        rotation_of(camera["q"]),
        np.array(camera["t"], dtype=np.float64).reshape(3),
        float(camera["focal_length"]),
    )
