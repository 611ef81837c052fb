"""COCO annotations: a JSON of images, categories and boxes beside a folder of the images.

An image whose annotations cannot be used (a box without an area or outside the image, a category that is not listed) is
itself unusable, and says why when it is read: a box that silently falls out would teach that its object is background.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinov3.data.errors import BadImage, DataError
from dinov3.data.storage.identity import VERSION, Identity
from dinov3.detect.boxes import Boxes, boxes_of
from dinov3.system.json_file import JsonError, Maybe, read_object

FORM: dict[str, list[dict[str, Any]]] = {
    "images": [{"id": int, "file_name": str, "width": int, "height": int}],
    "annotations": [
        {
            "image_id": int,
            "category_id": int,
            "bbox": [float],
            "iscrowd": Maybe(int),
            "ignore": Maybe(int),
            "area": Maybe(float),
        }
    ],
    "categories": [{"id": int, "name": str}],
}
Row = dict[str, Any]
# What is kept of a row: the outlines of COCO's objects would take gigabytes.
OF_IMAGE, OF_BOX = (tuple(FORM[part][0]) for part in ("images", "annotations"))


class CocoFile:
    """The images of one annotation file. Raises DataError for a file that is none, or that has no box."""

    def __init__(self, file: Path, images: Path, classes: Sequence[str] | None = None) -> None:
        """``classes``: names in the order of their numbers, as another part has them; None: this file's, by their id."""
        self.file, self.folder = file, images
        told = _read(file)
        self.images: list[Row] = sorted((_kept(row, OF_IMAGE) for row in told["images"]), key=lambda row: row["id"])
        categories = sorted(told["categories"], key=lambda row: row["id"])
        self.classes = list(classes) if classes is not None else [row["name"] for row in categories]
        number = {name: i for i, name in enumerate(self.classes)}
        _refuse_twice(f"{file}: two categories of the id", [row["id"] for row in categories])
        _refuse_twice(f"{file}: two images of the id", [row["id"] for row in self.images])
        _refuse_twice(f"{file}: two images of the file", [row["file_name"] for row in self.images])
        if unknown := [row["name"] for row in categories if row["name"] not in number]:
            raise DataError(f"{file}: the category {unknown[0]!r} is none of {len(number)} known ones: {_few(number)}")
        if len(number) < len(self.classes) or not number:
            raise DataError(f"{file}: two categories of one name, or none: give each its own")
        self._number = {row["id"]: number[row["name"]] for row in categories}
        self._rows: dict[int, list[Row]] = {row["id"]: [] for row in self.images}
        for row in told["annotations"]:
            if row["image_id"] not in self._rows:
                raise DataError(f"{file}: an annotation of image {row['image_id']}, which the file does not list")
            self._rows[row["image_id"]].append(_kept(row, OF_BOX))
        if not told["annotations"]:
            raise DataError(f"{file}: no annotations: a detector needs boxes")

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> Path:
        return self.folder / self.images[index]["file_name"]

    def read(self, index: int) -> bytes:
        """The image file's bytes. Raises OSError."""
        return self.path(index).read_bytes()

    def label(self, index: int) -> int | None:
        """None: the classes are in the boxes."""
        return None

    def name(self, index: int) -> str:
        return str(self.path(index))

    def boxes(self, index: int) -> Boxes:
        """Of one image, cut at its edges. Raises BadImage."""
        image = self.images[index]
        corners, classes, ignored, areas = [], [], [], []
        for row in self._rows[image["id"]]:
            if row["category_id"] not in self._number:
                raise BadImage(f"a box of category {row['category_id']}, which {self.file.name} does not list")
            corners.append(_corners(row["bbox"], image))
            classes.append(self._number[row["category_id"]])
            ignored.append(bool(row.get("iscrowd") or row.get("ignore")))
            left, top, right, bottom = corners[-1]
            areas.append(float(row.get("area") or (right - left) * (bottom - top)))
        return boxes_of(corners, classes, ignored, areas)

    def check_size(self, index: int, height: int, width: int) -> None:
        """Raises BadImage when the image has not the size that its boxes are of."""
        told = self.images[index]
        if (told["height"], told["width"]) != (height, width):
            size = f"{told['width']}x{told['height']}"
            raise BadImage(f"{width}x{height} px, but {self.file.name} says {size}: its boxes are of another image")

    def fingerprint(self) -> str:
        """A hash of the images' names and all boxes."""
        seen = hashlib.sha256(repr(self.classes).encode(errors="surrogatepass"))
        for image in self.images:
            rows = [
                (row["category_id"], row["bbox"], bool(row.get("iscrowd") or row.get("ignore")))
                for row in self._rows[image["id"]]
            ]
            told = (image["file_name"], image["width"], image["height"], rows)
            seen.update(repr(told).encode(errors="surrogatepass"))
        return f"coco-{seen.hexdigest()[:16]}"

    def identity(self) -> Identity:
        """Names, boxes, and the folder."""
        return Identity(VERSION + self.fingerprint(), str(self.folder), self.fingerprint())

    def version(self) -> str:
        """The same, and when the file was written."""
        return f"{self.fingerprint()}-{self.file.stat().st_mtime_ns}"


def _read(file: Path) -> dict[str, Any]:
    try:
        told = read_object(file, FORM)
    except (OSError, JsonError) as error:
        raise DataError(f"{file}: not COCO annotations: {error}") from error
    for row in told["images"]:
        if Path(row["file_name"]).is_absolute() or ".." in Path(row["file_name"]).parts:
            raise DataError(f"{file}: the image {row['file_name']!r} is not inside the folder of images")
    return told


def _kept(row: Row, names: Sequence[str]) -> Row:
    return {name: row[name] for name in names if name in row}


def _corners(bbox: Sequence[float], image: Row) -> list[float]:
    if len(bbox) != 4:
        raise BadImage(f"a box of {len(bbox)} numbers: left, top, width and height are expected")
    left, top, width, height = (float(number) for number in bbox)
    if width <= 0 or height <= 0:
        raise BadImage(f"a box of no area: {_box(bbox)}")
    cut = [max(left, 0.0), max(top, 0.0), min(left + width, image["width"]), min(top + height, image["height"])]
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise BadImage(f"a box outside the image of {image['width']}x{image['height']} px: {_box(bbox)}")
    return cut


def _box(bbox: Sequence[float]) -> str:
    return f"[{', '.join(f'{number:g}' for number in bbox)}]"


def _refuse_twice(what: str, values: Sequence[Any]) -> None:
    """DataError for a value that occurs twice."""
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise DataError(f"{what} {twice[0]!r}: give each its own")


def _few(names: dict[str, int]) -> str:
    first = ", ".join(list(names)[:5])
    return first + (", …" if len(names) > 5 else "")
