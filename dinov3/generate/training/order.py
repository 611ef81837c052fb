"""Which samples make up which step, without a state and without a list: all samples of a step are of one bucket.

Each bucket is an endless stream of its own, one keyed permutation of its samples after the other. In every pass over the set
a bucket gets as many steps as it has samples for; what does not fill a step begins the bucket's first step of the next pass.
So samples come equally often, none twice before all of its bucket came once, and resuming is naming the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dinov3.data.order import samples_at
from dinov3.data.randomness import digest, generator

Ints = NDArray[np.int64]


class BucketOrder:
    """``counts``: samples of each bucket; ``group``: samples of a step, over all processes and accumulated batches."""

    def __init__(self, counts: Sequence[int], group: int, seed: int) -> None:
        self.counts, self.group, self.seed = tuple(counts), group, seed
        # where in its stream a bucket begins: without it all buckets would be short of a step in the same pass
        self._ahead = [int(generator(seed, "bucket begins", b).integers(group)) for b in range(len(counts))]
        self._seeds = [int.from_bytes(digest(seed, "bucket", b, size=8), "little") for b in range(len(counts))]
        self._steps = lru_cache(maxsize=4)(self._arranged)

    def bucket_at(self, step: int) -> tuple[int, int]:
        """(number of the bucket, steps it had before) at ``step``."""
        passed = step * self.group // sum(self.counts)
        while self._before(passed + 1) <= step:
            passed += 1
        while self._before(passed) > step:
            passed -= 1
        return self._steps(passed)[step - self._before(passed)]

    def rows_at(self, step: int, slots: Ints) -> tuple[int, Ints]:
        """(number of the bucket, its samples ``[N]``) at ``slots [N]`` of a step, each below ``group``."""
        bucket, before = self.bucket_at(step)
        _, rows = samples_at(before * self.group + slots, self.counts[bucket], self._seeds[bucket])
        return bucket, rows

    def _had(self, bucket: int, passes: int) -> int:
        """Steps of a bucket in the first ``passes`` passes."""
        return (passes * self.counts[bucket] + self._ahead[bucket]) // self.group

    def _before(self, passes: int) -> int:
        return sum(self._had(bucket, passes) for bucket in range(len(self.counts)))

    def _arranged(self, number: int) -> list[tuple[int, int]]:
        """The steps of a pass, buckets shuffled."""
        steps = [
            (bucket, step)
            for bucket in range(len(self.counts))
            for step in range(self._had(bucket, number), self._had(bucket, number + 1))
        ]
        places = generator(self.seed, "order of buckets", number).permutation(len(steps))
        buckets = [steps[place][0] for place in places]
        counts = {bucket: self._had(bucket, number) for bucket in range(len(self.counts))}
        found = []
        for bucket in buckets:
            found.append((bucket, counts[bucket]))
            counts[bucket] += 1
        return found
