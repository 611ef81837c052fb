"""Which patches the student does not see: block-wise masks (BEiT, Bao et al. 2021, algorithm 1) with exact counts.

How many patches are hidden in each crop is not drawn. Of 2B global crops, int(2B * probability) are masked; the
shares of hidden patches divide [low, high] evenly; chance only decides which crop gets which. So every batch hides the
same number of patches, the ``upperbound``.

With several processes the counts are made for the global batch and dealt to its images before anything is drawn, so
that the same images get the same masks however many processes share them: the batch is cut into small blocks of
neighbouring images; the sorted counts are dealt to the blocks like cards, there and back, which makes their sums
almost equal; chance only shuffles inside a block. A process that holds whole blocks hides the same number of patches
in every batch, and one process alone has exactly the counts above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dinov3.data.crops import GLOBAL_CROPS
from dinov3.data.randomness import generator

BLOCK = 4  # a block has at least so many images: enough to shuffle, few enough to fit into any process's share
TRIES = 10  # to place one rectangle, before the rest is filled patch by patch

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]


class MaskingGenerator:
    """Draws masks of ``input_size`` (rows, columns) patches, with exactly the wanted number hidden.

    Rectangles of ``min_num_patches`` to ``max_num_patches`` (default: half of all) patches and log-uniform aspect
    between ``min_aspect`` and ``max_aspect`` (default: 1 / min_aspect) are laid until the number is reached; what no
    rectangle fits is filled at random. Arguments are DINOv3's; ``num_masking_patches`` is the default number.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int | None = None,
        min_num_patches: int = 4,
        max_num_patches: float | None = None,
        min_aspect: float = 0.3,
        max_aspect: float | None = None,
    ) -> None:
        self.height, self.width = (input_size, input_size) if isinstance(input_size, int) else input_size
        self.num_patches = self.height * self.width
        self.num_masking_patches = num_masking_patches
        self.min_num_patches = min_num_patches
        self.max_num_patches = self.num_patches / 2 if max_num_patches is None else max_num_patches
        self.log_aspect = (math.log(min_aspect), math.log(max_aspect or 1 / min_aspect))

    def __call__(self, num_masking_patches: int | None = None, *, rng: np.random.Generator) -> Mask:
        """A mask ``[rows, columns]``, True where hidden, with exactly ``num_masking_patches`` True."""
        wanted = self.num_masking_patches if num_masking_patches is None else num_masking_patches
        if wanted is None or not 0 <= wanted <= self.num_patches:
            raise ValueError(f"cannot hide {wanted} of {self.num_patches} patches")
        mask = np.zeros((self.height, self.width), dtype=bool)
        hidden = 0
        while hidden < wanted:
            added = self._lay_rectangle(mask, wanted - hidden, rng)
            if added == 0:
                free = np.flatnonzero(~mask)
                mask.ravel()[rng.choice(free, wanted - hidden, replace=False)] = True
                break
            hidden += added
        return mask

    def _lay_rectangle(self, mask: Mask, room: int, rng: np.random.Generator) -> int:
        """Hide one rectangle with 1 to ``room`` patches that were not hidden yet; how many those were, 0 for none."""
        largest = min(room, self.max_num_patches)
        low, high = self.log_aspect
        for areas, aspects, rows, columns in rng.random((TRIES, 4)).tolist():
            area = self.min_num_patches + (largest - self.min_num_patches) * areas
            aspect = math.exp(low + (high - low) * aspects)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < h < self.height and 0 < w < self.width):
                continue
            top, left = int(rows * (self.height - h + 1)), int(columns * (self.width - w + 1))
            window = mask[top : top + h, left : left + w]
            added = h * w - int(np.count_nonzero(window))
            if 0 < added <= largest:
                window[:] = True
                return added
        return 0


def largest_rectangle(size: int, patch: int) -> float:
    """Most patches of one rectangle: half of the crop, rounded as upstream rounds it, a little less for odd grids."""
    return 0.5 * size // patch * size // patch


def mask_counts(crops: int, patches: int, probability: float, ratio: tuple[float, float]) -> Counts:
    """Hidden patches of ``crops`` crops, ascending: zeros, then int(patches * share), shares evenly up to the largest.

    The least share itself is not used, and shares are float32: both as upstream, whose counts these are.
    """
    masked = int(crops * probability)
    shares = torch.linspace(ratio[0], ratio[1], masked + 1)[1:].tolist()
    counts = [int(patches * share) for share in shares]
    return np.array([0] * (crops - masked) + counts, dtype=np.int64)


def circularly_shifted(mask: Mask, rng: np.random.Generator) -> Mask:
    """``mask`` rolled by a random number of rows and columns: blocks then touch borders as often as the middle."""
    rows, columns = rng.integers(0, mask.shape).tolist()
    return np.roll(mask, (rows, columns), axis=(0, 1))


@dataclass(frozen=True)
class MaskPlan:
    """The masks of every batch of a run: (seed, position of the batch in the stream of samples, image) -> two masks."""

    seed: int
    images: int  # of the global batch
    masking: MaskingGenerator
    dealt: Counts  # [blocks, crops of a block] hidden patches, the same in every batch
    random_circular_shift: bool = False

    @classmethod
    def make(
        cls,
        seed: int,
        images: int,
        size: int,
        patch: int,
        *,
        probability: float,
        ratio: tuple[float, float],
        random_circular_shift: bool = False,
    ) -> MaskPlan:
        """For global batches of ``images`` images whose global crops are ``size`` pixels wide, in patches of ``patch``."""
        grid = size // patch
        masking = MaskingGenerator((grid, grid), max_num_patches=largest_rectangle(size, patch))
        counts = mask_counts(GLOBAL_CROPS * images, grid * grid, probability, ratio)
        return cls(seed, images, masking, deal(counts, images // block_size(images)), random_circular_shift)

    @property
    def images_per_block(self) -> int:
        return self.dealt.shape[1] // GLOBAL_CROPS

    def draw(self, position: int, slots: range) -> NDArray[np.bool_]:
        """Masks ``[G, len(slots), P]`` of these images (numbers in the global batch that starts at ``position``)."""
        masks = np.zeros((GLOBAL_CROPS, len(slots), self.masking.num_patches), dtype=bool)
        counts: dict[int, list[list[int]]] = {}
        for i, slot in enumerate(slots):
            block, place = divmod(slot, self.images_per_block)
            if block not in counts:
                rng = generator(self.seed, "mask counts", position, block)
                counts[block] = rng.permutation(self.dealt[block]).reshape(-1, GLOBAL_CROPS).tolist()
            rng = generator(self.seed, "mask", position, slot)
            for crop, wanted in enumerate(counts[block][place]):
                if wanted:
                    mask = self.masking(wanted, rng=rng)
                    masks[crop, i] = (circularly_shifted(mask, rng) if self.random_circular_shift else mask).ravel()
        return masks

    def upperbound(self, batch_size: int) -> int:
        """The most patches that any process hiding ``batch_size`` neighbouring images of the global batch can hide."""
        starts = range(0, self.images, batch_size)
        return max(self._most_hidden(start, min(start + batch_size, self.images)) for start in starts)

    def _most_hidden(self, start: int, stop: int) -> int:
        size, total = self.images_per_block, 0
        for block in range(start // size, -(-stop // size)):
            inside = min(stop, (block + 1) * size) - max(start, block * size)
            total += int(np.sort(self.dealt[block])[::-1][: GLOBAL_CROPS * inside].sum())
        return total


def block_size(images: int) -> int:
    """The smallest divisor of ``images`` that is at least BLOCK, else ``images`` itself."""
    return next((n for n in range(BLOCK, images) if images % n == 0), images)


def deal(counts: Counts, blocks: int) -> Counts:
    """Ascending ``counts`` dealt to ``blocks`` hands ``[blocks, len / blocks]``, first to last, last to first, ..."""
    rounds = counts.reshape(-1, blocks).copy()
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds.T
