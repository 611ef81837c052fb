"""Which image goes into which shard, decided before the first forward: a function of the data and the options alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import read_stored, size_of
from dinov3.data.errors import BadImage
from dinov3.data.sources import Source
from dinov3.features.extract import in_threads
from dinov3.generate.buckets import Bucket
from dinov3.generate.errors import GenerateError
from dinov3.generate.inputs.files import names_of
from dinov3.generate.inputs.open import Inputs
from dinov3.generate.shards import (
    DTYPE,
    FIELDS,
    LATENT_FIELDS,
    MASK_DTYPE,
    TEXT_FIELDS,
    json_bytes,
    member_bytes,
    npy_bytes,
    shard_bytes,
)
from dinov3.generate.sizing import Sizing
from dinov3.system.json_file import as_form

_IMAGE = {"name": str, "reason": str}
PLAN_FORM = {
    "shards": [{"bucket": {"width": int, "height": int}, "number": int, "indices": [int]}],
    "unreadable": [_IMAGE],
    "too_long": [_IMAGE],
    "stretch": float,
}
FEATURES_ALONE = Inputs()


@dataclass(frozen=True)
class ShardPlan:
    """One shard: rows of the data set, all of one bucket."""

    bucket: Bucket
    number: int
    indices: list[int]

    @property
    def name(self) -> str:
        """Its path in the folder of the set."""
        return f"{self.bucket.folder}/shard-{self.number:06d}.tar"


@dataclass(frozen=True)
class Form:
    """What all samples of a set have in common. ``patch``: px of the backbone's patch; ``pool``: patches averaged a side."""

    weights: str
    preproc_hash: str
    width: int
    patch: int
    pool: int
    text_length: int = 0  # tokens of the text; 0: the set has none
    text_width: int = 0
    channels: int = 0  # of the latents; 0: the set has none

    @classmethod
    def of_key(cls, key: Mapping[str, Any]) -> Form:
        """As a manifest has it. KeyError, TypeError or ValueError for something else."""
        numbers = [int(key[name]) for name in ("width", "patch", "pool")]
        more = [int(key.get(name, 0)) for name in ("text_length", "text_width", "channels")]
        return cls(str(key["weights"]), str(key["preproc_hash"]), *numbers, *more)

    def arrays(self, bucket: Bucket) -> dict[str, tuple[int, ...]]:
        """Shape of every array of a sample, by the ending of its name, in their order."""
        rows, cols = self.grid(bucket)
        found: dict[str, tuple[int, ...]] = {FIELDS[1]: (self.width,), FIELDS[2]: (rows * cols, self.width)}
        if self.text_length:
            found |= {TEXT_FIELDS[0]: (self.text_length, self.text_width), TEXT_FIELDS[1]: (self.text_length,)}
        return found | ({LATENT_FIELDS[0]: (self.channels, *bucket.latent())} if self.channels else {})

    def grid(self, bucket: Bucket) -> tuple[int, int]:
        """(rows, cols) of stored patches."""
        return bucket.grid(self.patch * self.pool)

    def facts(self, key: str, src: str, bucket: Bucket, caption: str | None = None) -> dict[str, Any]:
        """The JSON of a sample."""
        told = {"weights": self.weights, "preproc_hash": self.preproc_hash}
        told |= {} if caption is None else {"caption": caption}
        return {"image_id": key, "src": src, "bucket": str(bucket), "grid": list(self.grid(bucket)), **told}


@dataclass(frozen=True)
class Plan:
    """All shards, and the images that have no place."""

    shards: list[ShardPlan]
    unreadable: list[BadSample]
    too_long: list[BadSample]
    stretch: float  # the largest of the images that have a place
    incomplete: list[BadSample] = field(default_factory=list)  # without a text or a latent

    @property
    def images(self) -> int:
        """Images with a place."""
        return sum(len(shard.indices) for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """For ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        """What ``to_json`` gave, of the form ``PLAN_FORM``."""
        shards = [
            ShardPlan(Bucket(s["bucket"]["width"], s["bucket"]["height"]), s["number"], s["indices"])
            for s in content["shards"]
        ]
        as_form(left_out := content.get("incomplete", []), [_IMAGE])  # sets of images alone do not have it
        unreadable, too_long, incomplete = (
            [BadSample(bad["name"], bad["reason"]) for bad in rows]
            for rows in (content["unreadable"], content["too_long"], left_out)
        )
        return cls(shards, unreadable, too_long, float(content["stretch"]), incomplete)


def key_of(index: int) -> str:
    """The sample's key: its place in the data set. File names may have dots, at which WebDataset would cut them."""
    return f"{index:09d}"


def make_plan(
    source: Source,
    sizing: Sizing,
    form: Form,
    cap: int,
    *,
    inputs: Inputs = FEATURES_ALONE,
    threads: int = 1,
    count: Callable[[int], object] = lambda n: None,
) -> Plan:
    """The plan for all of ``source``; every image's size is read. ``cap``: bytes of a shard, at most.

    Raises GenerateError when no image has a place, when two images would have one caption, or when one sample
    is larger than a shard may be.
    """
    rows: dict[Bucket, list[int]] = {}
    unreadable: list[BadSample] = []
    too_long: list[BadSample] = []
    incomplete: list[BadSample] = []
    taken: dict[str, int] = {}
    stretch = 1.0
    for index, size in enumerate(in_threads(lambda i: _size(source, i), range(len(source)), threads)):
        count(1)
        if isinstance(size, BadSample):
            unreadable.append(size)
        elif (bucket := sizing.bucket(*size)) is None:
            reason = f"{size[1]}x{size[0]} px: its shape is too far from every bucket; --max-stretch takes it in"
            too_long.append(BadSample(source.name(index), reason))
        elif (lacks := inputs.missing(names_of(index, source.name(index)))) is not None:
            incomplete.append(BadSample(source.name(index), lacks))
        else:
            _take(source, inputs, index, taken)
            rows.setdefault(bucket, []).append(index)
            stretch = max(stretch, bucket.stretch(size[1], size[0]))
    if not rows:
        first = [*unreadable, *too_long, *incomplete][:1]
        told = f", the first {first[0].name}: {first[0].reason}" if first else ""
        raise GenerateError(f"none of {len(source)} images can be used{told}")

    def facts(index: int, bucket: Bucket) -> dict[str, Any]:
        return facts_of(source, form, inputs, index, bucket)

    shards = [shard for bucket in sorted(rows) for shard in _shards(facts, form, bucket, rows[bucket], cap)]
    return Plan(shards, unreadable, too_long, stretch, incomplete)


def _take(source: Source, inputs: Inputs, index: int, taken: dict[str, int]) -> None:
    """Note what an image takes of the inputs. ``1.jpg`` of two folders would have one caption otherwise, unseen."""
    for what in inputs.taken(names_of(index, source.name(index))):
        if (other := taken.setdefault(what, index)) != index:
            raise GenerateError(
                f"{what} is of two images, {source.name(other)} and {source.name(index)}: name images as the data set does, "
                f"or by their places in it ({key_of(other)}, {key_of(index)})"
            )


def facts_of(source: Source, form: Form, inputs: Inputs, index: int, bucket: Bucket) -> dict[str, Any]:
    """The JSON of an image's sample."""
    name = source.name(index)
    caption = None if inputs.text is None else inputs.text.caption(names_of(index, name))
    return form.facts(key_of(index), name, bucket, caption)


def _size(source: Source, index: int) -> tuple[int, int] | BadSample:
    try:
        return size_of(read_stored(source, index))
    except BadImage as error:
        return BadSample(source.name(index), str(error))


def _shards(
    facts: Callable[[int, Bucket], dict[str, Any]], form: Form, bucket: Bucket, indices: list[int], cap: int
) -> Iterator[ShardPlan]:
    """Consecutive images until the next would make the tar larger than ``cap``."""
    types = {TEXT_FIELDS[1]: MASK_DTYPE}
    shapes = form.arrays(bucket)
    arrays = sum(
        member_bytes(len(npy_bytes(np.zeros(shape, types.get(name, DTYPE))))) for name, shape in shapes.items()
    )
    number, content, chosen = 0, 0, list[int]()
    for index in indices:
        size = arrays + member_bytes(len(json_bytes(facts(index, bucket))))
        if shard_bytes(size) > cap:
            raise GenerateError(
                f"a sample of bucket {bucket} has {shard_bytes(size):,} bytes in a shard of at most {cap:,}: raise --shard-mb"
            )
        if chosen and shard_bytes(content + size) > cap:
            yield ShardPlan(bucket, number, chosen)
            number, content, chosen = number + 1, 0, []
        chosen.append(index)
        content += size
    yield ShardPlan(bucket, number, chosen)
