"""From pixels to tokens: patches times one matrix, or what whitened filters see of them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int]  # (rows, cols) of patches
# Of a whitened stem:
KERNEL, STRIDE = 4, 2  # px, of its filters
QUADRANTS = 4  # parts of the image the class token is told of
WINDOWS = 40_000  # of all images together, from which the filters are made
CHUNK = 128  # images at once
LEAST_OF_A_WINDOW, LEAST_OF_A_TOKEN = 0.1, 0.02  # see ``whitening``
LEAST_OF_A_CHANGE, POWER_OF_WHAT_STAYS = 0.1, 0.25  # see ``lasting``
TOKEN_SCALE, CLS_SCALE = 0.5, 0.5  # standard deviation of a fresh token's entries: a PatchEmbed's are about as large


class PatchEmbed(nn.Module):
    """Non-overlapping patches times one matrix. The weight is stored as a convolution's, [D, C, p, p]."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def init_weights(self, generator: torch.Generator | None) -> None:
        bound = 1 / math.sqrt(self.proj.weight[0].numel())
        assert self.proj.bias is not None
        for weight in (self.proj.weight, self.proj.bias):
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    def grid(self, x: Tensor) -> Grid:
        """Whole patches in the images ``x`` [N, C, H, W]; what is left over at the right and bottom is not seen."""
        rows, cols = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        if rows == 0 or cols == 0:
            raise ValueError(f"image of {x.shape[-2]}x{x.shape[-1]} px is smaller than a patch of {self.patch_size} px")
        return rows, cols

    def forward(self, x: Tensor) -> Tensor:
        # One GEMM: the strided convolution took 12 ms of a 264 ms ViT-B step in bf16 on an H200.
        (rows, cols), p = self.grid(x), self.patch_size
        x = x[..., : rows * p, : cols * p].unflatten(-1, (cols, p)).unflatten(-3, (rows, p))  # [N, C, rows, p, cols, p]
        patches = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [N, P, C*p*p]
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)  # [N, P, D]


class WhitenedStem(PatchEmbed):
    """Filters that are whitened patches of the training images, before anything is learned (Coates and Ng 2012,
    "Learning feature representations with k-means", section 2; Thiry et al. 2021, "The unreasonable effectiveness of patches").

    ``filters`` filters of 4 x 4 px, every 2 px, their positive and their negative part apart; their means over a patch,
    times a matrix, are its token, and the tokens' means over the four quadrants of the image, times another, are added to the class
    token. ``fit`` makes filters and matrices of images: tokens are whitened, class tokens keep what two crops of an
    image have in common (``lasting``). The filters are not trained afterwards, everything else is.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int, filters: int) -> None:
        """Raises ValueError for a patch size or width that is odd, and for too few ``filters``."""
        nn.Module.__init__(self)
        if patch_size % STRIDE or embed_dim % 2:
            raise ValueError(f"a whitened stem wants patch_size {patch_size} and embed_dim {embed_dim} even")
        if 2 * filters < embed_dim:
            raise ValueError(f"{filters} filters of a whitened stem: at least half of embed_dim {embed_dim}")
        self.patch_size = patch_size
        self.filters = nn.Conv2d(in_chans, filters, KERNEL, STRIDE)
        self.filters.requires_grad_(False)
        self.proj = nn.Conv2d(2 * filters, embed_dim, kernel_size=1)
        self.readout = nn.Linear(QUADRANTS * embed_dim, embed_dim)

    def init_weights(self, generator: torch.Generator | None) -> None:
        super().init_weights(generator)
        for layer in (self.filters, self.readout):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = F.linear(self._means(x), self.proj.weight.flatten(1), self.proj.bias)  # [N, P, D]
        return tokens

    def cls(self, patches: Tensor, grid: Grid) -> Tensor:
        """What is added to the class token: ``[N, 1, D]`` of ``patches [N, P, D]``, masked ones as they are there."""
        out: Tensor = self.readout(_quadrants(patches, grid))
        return out[:, None]

    def _means(self, x: Tensor) -> Tensor:
        """Means of the filters' positive and negative parts over each patch, ``[N, P, 2 * filters]``."""
        (rows, cols), p = self.grid(x), self.patch_size
        # Channels last, one large tensor (unless a gradient passes), and the negative part as what the positive one has more
        # than both: of 128 crops of 32 px and 192 filters 15 to 35 ms on two cores, where both parts side by side took 79 to 148.
        x = _bordered(x[..., : rows * p, : cols * p]).contiguous(memory_format=torch.channels_last)
        seen = self.filters(x)  # [N, filters, H / 2, W / 2]
        both = F.avg_pool2d(seen, p // STRIDE)
        positive = F.avg_pool2d(F.relu(seen, inplace=not seen.requires_grad), p // STRIDE)
        return torch.cat((positive, positive - both), dim=1).flatten(2).mT

    @torch.no_grad()
    def fit(self, images: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], generator: torch.Generator) -> None:
        """Make filters and matrices of ``images [N, C, H, W]``, whole and normalised as in training; more than D of them.

        ``pairs``: two crops each of some images, augmented as in training, ``[n, C, h, w]`` both. ``generator``, on the CPU, draws
        which patches of the images become filters.
        """
        windows = F.unfold(images, KERNEL, stride=STRIDE).transpose(0, 1).flatten(1).T  # [M, C*k*k]
        windows = windows[torch.randperm(len(windows), generator=generator)[:WINDOWS].to(windows.device)].double()
        mean, basis = whitening(windows, len(windows[0]), least=LEAST_OF_A_WINDOW)
        # (w - mean) basis of a window w, times that of a chosen one: large where both have the same detail
        chosen = F.normalize((windows[: self.filters.out_channels] - mean) @ basis, dim=1)
        weight = chosen @ basis.T
        self.filters.weight.copy_(weight.unflatten(1, self.filters.weight.shape[1:]))
        _bias(self.filters).copy_(-weight @ mean)
        means = torch.cat([self._means(part) for part in images.split(CHUNK)])  # [N, P, 2 * filters]
        mean, basis = whitening(means.flatten(0, 1).double(), self.proj.out_channels, least=LEAST_OF_A_TOKEN)
        self.proj.weight.copy_((TOKEN_SCALE * basis.T)[..., None, None])
        _bias(self.proj).copy_(-TOKEN_SCALE * basis.T @ mean)
        self._fit_readout(images, pairs)

    def _fit_readout(self, images: Tensor, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """The matrix of the class token; class tokens of ``images`` then have a mean of 0 and entries of CLS_SCALE."""
        views = [tuple(map(self._parts, pair)) for pair in pairs]
        first, second = (torch.cat(parts) for parts in zip(*views, strict=True))
        basis = lasting(first, second, self.readout.out_features, least=LEAST_OF_A_CHANGE)
        whole = torch.cat([self._parts(some) for some in images.split(CHUNK)])
        mean = whole.mean(0)
        basis *= CLS_SCALE / ((whole - mean) @ basis).square().mean().sqrt()
        self.readout.weight.copy_(basis.T)
        self.readout.bias.copy_(-basis.T @ mean)

    def _parts(self, x: Tensor) -> Tensor:
        """What the class token is told of images, before the matrix, ``[N, 4 * D]``."""
        return _quadrants(self(x), self.grid(x)).double()


def _bordered(x: Tensor) -> Tensor:
    """``x [N, C, H, W]`` with its outermost pixels repeated once (``F.pad`` exports to ONNX for one size only)."""
    x = torch.cat((x[..., :1], x, x[..., -1:]), dim=-1)
    return torch.cat((x[..., :1, :], x, x[..., -1:, :]), dim=-2)


def _quadrants(patches: Tensor, grid: Grid) -> Tensor:
    """Means of ``patches [N, P, D]`` over the quadrants of their ``grid``, ``[N, 4 * D]``. A middle row or column is of both
    halves: the numbers of ``F.adaptive_avg_pool2d``, which exports to ONNX for one size only."""
    rows, cols = grid
    places = patches.unflatten(1, grid)  # [N, rows, cols, D]
    upper_lower = (places[:, : rows - rows // 2], places[:, rows // 2 :])
    parts = [
        half[:, :, part].mean((1, 2))
        for half in upper_lower
        for part in (slice(cols - cols // 2), slice(cols // 2, None))
    ]
    return torch.cat(parts, dim=1)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def whitening(rows: Tensor, number: int, least: float) -> tuple[Tensor, Tensor]:
    """(mean ``[D]``, basis ``[D, number]``) with which ``(rows - mean) @ basis`` has ``number`` uncorrelated columns.

    The principal directions, the strongest first, each over its standard deviation plus ``least`` times the largest one,
    so that noise is not made as loud as the rest.
    """
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    deviations = values.clamp_min(0).sqrt().flip(0)[:number]
    return mean, vectors.flip(1)[:, :number] / (deviations + least * deviations[0])


def lasting(first: Tensor, second: Tensor, number: int, least: float) -> Tensor:
    """A basis ``[D, number]`` of what two crops of an image have in common, ``first`` and ``second [N, D]``: the directions
    in which images differ most where crops of one differ least, the strongest first.

    With T the covariance of crops and C that between the two of an image, T - C is how crops of one image differ: generalised
    eigenvectors of C and T - C (Fisher's discriminant, each image a class of its own), scaled to a T - C of 1, times the
    eigenvalue to the power of POWER_OF_WHAT_STAYS. ``least`` times its mean is added to the diagonal of T - C, so that a
    direction that few crops have not shown to change is not made loud.
    """
    mean = (first.mean(0) + second.mean(0)) / 2
    first, second = first - mean, second - mean
    both = first.T @ second / len(first)
    common = (both + both.T) / 2
    change = (first.T @ first + second.T @ second) / (2 * len(first)) - common
    change.diagonal().add_(least * change.diagonal().mean())
    inverse = torch.linalg.inv(torch.linalg.cholesky(change))
    values, vectors = torch.linalg.eigh(inverse @ common @ inverse.T)
    values, vectors = values.flip(0)[:number], vectors.flip(1)[:, :number]
    return (inverse.T @ vectors) * values.clamp_min(0) ** POWER_OF_WHAT_STAYS
