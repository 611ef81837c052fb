"""Images in, tokens out: a frozen backbone with its preprocessing, in batches, in eval mode."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinov3.data.decode import USUAL, Reading
from dinov3.distributed.allocation import refuse_unused_gpus
from dinov3.engine.precision import DTYPES
from dinov3.features.preprocess import Picture, Preprocess
from dinov3.features.tokens import POOLS, Pool, Tokens
from dinov3.models.backbone import Backbone
from dinov3.system.cores import cores
from dinov3.system.errors import first_line
from dinov3.weights.own import load_backbone

DEFAULT_SIZE = 224  # px: what released models are evaluated at
WINDOW = 2  # batches
A = TypeVar("A")
B = TypeVar("B")


class FeatureExtractor:
    """A backbone in eval mode, its preprocessing, a device and a number format.

    The backbone is used as it is, not copied; it is moved to ``device`` and must be in eval mode at every call.
    Results are float32 on the CPU and do not depend on the batch size or the order.
    """

    def __init__(
        self,
        backbone: Backbone,
        preprocess: Preprocess,
        *,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        batch_size: int = 64,
        compile: bool = False,
        threads: int | None = None,
    ) -> None:
        """``dtype``: fp32, bf16 or fp16 autocast; auto is bf16 on a GPU that has it, else fp32. ``threads`` read and
        resize images; the default is one a core. ConfigError for ``auto`` where GPUs were given and torch sees none."""
        if device == "auto" and not torch.cuda.is_available():
            refuse_unused_gpus()
        self.device = known_device(device)
        if dtype != "auto" and dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")
        fast = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dtype = ("bf16" if fast else "fp32") if dtype == "auto" else dtype
        self.backbone = backbone.to(self.device)
        self.preprocess = preprocess
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: at least 1")
        self.batch_size = batch_size
        self.threads = threads or cores()
        self._forward: Callable[..., Any] = torch.compile(backbone) if compile else backbone
        layers = cast(Any, backbone).get_intermediate_layers
        self._forward_layers: Callable[..., Any] = torch.compile(layers) if compile else layers

    def extract_each(self, images: Iterable[Picture] | Picture, *, normalised: bool = False) -> list[Tokens]:
        """Tokens of each image by itself (N = 1), whatever its size. An empty iterable is a ValueError."""
        return [layers[0] for layers in self.stream(images, normalised=normalised)]

    @overload
    def extract(
        self, images: Iterable[Picture] | Picture, *, pool: Literal["patches"] = "patches", normalised: bool = False
    ) -> Tokens: ...

    @overload
    def extract(
        self, images: Iterable[Picture] | Picture, *, pool: Literal["cls", "mean", "cls+mean"], normalised: bool = False
    ) -> Tensor: ...

    def extract(
        self, images: Iterable[Picture] | Picture, *, pool: Pool = "patches", normalised: bool = False
    ) -> Tokens | Tensor:
        """All tokens of images of one size, or with ``pool`` one vector an image ``[N, D]`` (``cls+mean``: ``[N, 2D]``).

        Order is kept. Pooled images may differ in size; with ``patches`` that is a ValueError: give a size to the
        preprocessing, or use ``extract_each``. ``normalised`` says that the tensors given are normalised already.
        """
        known(pool)
        return joined([reduced(layers[0], pool) for layers in self.stream(images, normalised=normalised)])

    def extract_layers(
        self,
        images: Iterable[Picture] | Picture,
        layers: int | Sequence[int],
        *,
        pool: Pool = "patches",
        norm: bool = True,
        normalised: bool = False,
    ) -> list[Tokens | Tensor]:
        """As ``extract``, after each of the last ``layers`` blocks, or of the blocks listed, in rising order.

        ``norm``: through the last norm, as DINOv3's ``get_intermediate_layers`` has it; False: as the block left them.
        """
        known(pool)
        found = self.stream(images, layers=layers, norm=norm, normalised=normalised)
        each = [[reduced(tokens, pool) for tokens in of_image] for of_image in found]
        return [joined([parts[i] for parts in each]) for i in range(len(each[0]))]

    def stream(
        self,
        images: Iterable[Picture] | Picture,
        *,
        layers: int | Sequence[int] | None = None,
        norm: bool = True,
        normalised: bool = False,
    ) -> Iterator[list[Tokens]]:
        """Per image, in order, its tokens after each wanted layer (one list item: the output, without ``layers``)."""
        prepare = self.preprocess.accept_normalised if normalised else self.preprocess
        found = False
        for tokens in self.stream_prepared(in_threads(prepare, _several(images), self.threads), layers, norm=norm):
            found = True
            yield tokens
        if not found:
            raise ValueError("no images were given")

    def stream_prepared(
        self, prepared: Iterable[Tensor], layers: int | Sequence[int] | None = None, *, norm: bool = True
    ) -> Iterator[list[Tokens]]:
        """``stream`` for images that went through ``preprocess`` already; of none, nothing.

        A batch holds images of one size; results wait until it is their turn, so that at most WINDOW batches of images
        and results are held: a size too rare to fill a batch by then goes through in a smaller one.
        """
        if self.backbone.training:
            raise ValueError("features are taken in eval mode: call .eval() first")
        read = self._output if layers is None else partial(self._layers, layers=layers, norm=norm)
        waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        done: dict[int, list[Tokens]] = {}
        turn = 0
        for position, image in enumerate(prepared):
            batch = waiting.setdefault(tuple(image.shape), [])
            batch.append((position, image))
            if len(batch) == self.batch_size:
                done |= self._run(waiting.pop(tuple(image.shape)), read)
            elif position - turn + 1 >= WINDOW * self.batch_size:
                oldest = min(waiting, key=lambda shape: waiting[shape][0][0])
                done |= self._run(waiting.pop(oldest), read)
            while turn in done:
                yield done.pop(turn)
                turn += 1
        for batch in waiting.values():
            done |= self._run(batch, read)
        for position in sorted(done):
            yield done[position]

    @torch.no_grad()  # not inference mode: a probe may train on the result
    def _run(self, batch: list[tuple[int, Tensor]], read: Callable[[Tensor], list[Tokens]]) -> dict[int, list[Tokens]]:
        images = torch.stack([image for _, image in batch]).to(self.device, non_blocking=True)
        with self._autocast():
            per_layer = read(images)
        positions = [position for position, _ in batch]
        return {p: [_one(tokens, row) for tokens in per_layer] for row, p in enumerate(positions)}

    def _output(self, images: Tensor) -> list[Tokens]:
        out = self._forward(images, is_training=True)
        return [Tokens(out.cls.float().cpu(), out.storage.float().cpu(), out.patches.float().cpu(), out.grid)]

    def _layers(self, images: Tensor, *, layers: int | Sequence[int], norm: bool) -> list[Tokens]:
        results = self._forward_layers(
            images, n=layers, reshape=True, return_class_token=True, return_extra_tokens=True, norm=norm
        )
        return [
            Tokens(
                cls.float().cpu(),
                storage.float().cpu(),
                maps.flatten(2).mT.float().cpu(),
                (maps.shape[2], maps.shape[3]),
            )
            for maps, cls, storage in results
        ]

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype == "fp32" else torch.autocast(self.device.type, dtype=DTYPES[self.dtype])


def load(
    path: str | Path,
    *,
    size: int | tuple[int, int] | Literal["native", "train"] = "native",
    max_side: int | None = None,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    preset: str | None = None,
    **settings: Any,
) -> FeatureExtractor:
    """The backbone at ``path`` (see ``load_backbone``), ready to extract features, with its own channel statistics.

    Args:
        size: px of a square, (height, width), "native" for each image's own size to the nearest whole patch, or "train"
            for the square the backbone was trained on (224 where its file does not say).
        max_side: px; with "native", larger images are shrunk to it.
        interpolation: of the resizing, antialiased. Hugging Face's processor for released weights and the examples of
            DINOv3's own README are bilinear.
        preset: the released model the weights are of, when the file cannot tell.
        settings: the keyword arguments of ``FeatureExtractor``.
    """
    backbone = load_backbone(path, preset=preset)
    preprocess = preprocess_of(backbone, size=size, max_side=max_side, interpolation=interpolation)
    return FeatureExtractor(backbone, preprocess, **settings)


def preprocess_of(
    backbone: Backbone,
    *,
    size: int | tuple[int, int] | Literal["native", "train"] = "native",
    max_side: int | None = None,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
) -> Preprocess:
    """How to feed a backbone that ``load_backbone`` returned; ``size``, ``max_side``, ``interpolation`` as in ``load``."""
    statistics = cast(Any, backbone).preprocess
    if size == "train":
        size = cast(int, statistics.get("size", DEFAULT_SIZE))
    return Preprocess(
        mean=tuple(statistics["mean"]),
        std=tuple(statistics["std"]),
        patch=backbone.stride,
        size=None if size == "native" else size,
        max_side=max_side,
        interpolation=interpolation,
        reading=Reading(value_range=tuple(statistics["value_range"])) if "value_range" in statistics else USUAL,
    )


def known_device(device: str | torch.device) -> torch.device:
    """``device``, "auto" for the GPU where there is one; ValueError for one that torch does not have here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch is built without CUDA
        reason = first_line(error)
        raise ValueError(f"device {str(device)!r} is not there: use auto or cpu ({reason})") from error
    return found


def known(pool: str) -> None:
    """ValueError unless ``pool`` is one."""
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r}: choose {', '.join(POOLS)}")


def reduced(tokens: Tokens, pool: Pool) -> Tokens | Tensor:
    """What is kept of an image, so that the patches of a whole data set need not be: all tokens, or its vector."""
    return tokens if pool == "patches" else tokens.pooled(pool)


def joined(results: Sequence[Tokens | Tensor]) -> Tokens | Tensor:
    """Results of single images as one: pooled vectors, or the tokens of images of one grid (else a ValueError)."""
    each = [result for result in results if isinstance(result, Tokens)]
    if not each:
        return torch.cat([result for result in results if isinstance(result, Tensor)])
    grids = sorted({tokens.grid for tokens in each})
    if len(grids) > 1:
        raise ValueError(
            f"the images give grids {grids[0]} to {grids[-1]}: give the preprocessing a size, or use extract_each"
        )
    cls, storage, patches, _ = zip(*each, strict=True)
    return Tokens(torch.cat(cls), torch.cat(storage), torch.cat(patches), grids[0])


def in_threads(function: Callable[[A], B], items: Iterable[A], threads: int) -> Iterator[B]:
    """``map`` with a few results computed ahead; decoding and resizing release the interpreter lock."""
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[B]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 4 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _several(images: Iterable[Picture] | Picture) -> Iterable[Picture]:
    single = isinstance(images, str | os.PathLike | bytes | bytearray | Image.Image) or hasattr(images, "read")
    if isinstance(images, Tensor | np.ndarray):
        single = images.ndim <= 3  # an array of four dimensions is a batch
    return [cast(Picture, images)] if single else cast(Iterable[Picture], images)


def _one(tokens: Tokens, row: int) -> Tokens:
    cls, storage, patches = (part[row : row + 1] for part in tokens[:3])
    return Tokens(cls, storage, patches, tokens.grid)
