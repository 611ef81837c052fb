"""A folder of shards to train on: any sample by bucket and row."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from dinov3.generate.buckets import Bucket
from dinov3.generate.errors import GenerateError
from dinov3.generate.shards import Sample, ShardIndex
from dinov3.generate.verify import AGAIN, check_sample, read_manifest

INDICES = 512  # shards whose table of contents is kept


class ShardSet:
    """A finished set of ``dinov3 dit extract``. GenerateError for one that is unfinished, cut, or has no texts or latents.

    Only the sizes of shards are looked at when it is opened; a sample is checked when it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents = read_manifest(folder)
        self.form, self.key = self.contents.form, self.contents.key
        for lacks, option in ((not self.form.text_length, "--text"), (not self.form.channels, "--latents")):
            if lacks:
                raise GenerateError(f"{folder}: holds no {option[2:]}: extract with {option}")
        for shard in self.contents.shards:
            path = folder / shard.name
            if not path.is_file() or path.stat().st_size != shard.file["size"]:
                raise GenerateError(f"{path}: missing or cut, not as the manifest says; {AGAIN}")
        self.buckets = sorted({shard.bucket for shard in self.contents.shards})
        self._shards = [[s for s in self.contents.shards if s.bucket == bucket] for bucket in self.buckets]
        self._ends = [list(accumulate(shard.rows for shard in shards)) for shards in self._shards]
        self._index = lru_cache(maxsize=INDICES)(ShardIndex)

    @property
    def counts(self) -> list[int]:
        """Samples of each bucket."""
        return [ends[-1] for ends in self._ends]

    def identity(self) -> str:
        """The same for the same samples, wherever they lie."""
        shards = [[shard.name, shard.file["sha256"]] for shard in self.contents.shards]
        return "dit:" + hashlib.sha256(json.dumps([self.key, shards], sort_keys=True).encode()).hexdigest()

    def _place(self, bucket: int, row: int) -> tuple[Path, int]:
        shard = bisect_right(self._ends[bucket], row)
        before = self._ends[bucket][shard - 1] if shard else 0
        return self.folder / self._shards[bucket][shard].name, row - before

    def read(self, bucket: int, row: int) -> Sample:
        """One sample, of this set and of the right shapes. GenerateError, naming the shard."""
        path, number = self._place(bucket, row)
        try:
            sample = self._index(path).read(number)
        except IndexError as error:
            raise GenerateError(f"{path}: fewer samples than the manifest says; {AGAIN}") from error
        check_sample(path, sample, self.buckets[bucket], self.form)
        return sample

    def name(self, bucket: int, row: int) -> str:
        """For messages."""
        path, number = self._place(bucket, row)
        return f"{path.relative_to(self.folder).as_posix()} sample {number}"

    def spread(self, most: int) -> list[tuple[int, int]]:
        """(bucket, row) of at most ``most`` samples, evenly over the set."""
        counts = self.counts
        total = sum(counts)
        ends = list(accumulate(counts))
        chosen = sorted({place * total // min(most, total) for place in range(min(most, total))})
        return [((b := bisect_right(ends, place)), place - (ends[b - 1] if b else 0)) for place in chosen]

    def bucket_of(self, number: int) -> Bucket:
        """The size of a bucket."""
        return self.buckets[number]
