"""A model over whole images: the scores of a set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import Pixels
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.over import over
from dinov3.finetune.headed.product import M


class Fed(Protocol):
    """How whole images are fed."""

    @property
    def channels(self) -> int: ...


class TrueSet(Protocol):
    """Images with their truth."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int, channels: int) -> tuple[Pixels, Any]:
        """(pixels ``[H, W, C]``, their truth). Raises BadImage; DataError for channels the backbone does not take."""
        ...

    def content(self) -> str:
        """What identifies the images and their truth."""


T = TypeVar("T", bound=TrueSet)


@dataclass
class Scored:
    """Of the images that could be used."""

    scores: dict[str, float | None]
    images: int
    skipped: list[BadSample]
    more: dict[str, Any] = field(default_factory=dict)  # what else ``results.json`` says, such as scores of classes


@dataclass(frozen=True)
class Scorer(ABC, Generic[M, T]):
    """How images are put through a model. A task adds how it feeds them, what is found of one, and the scores of all."""

    feeding: Fed
    precision: Precision
    threads: int = field(kw_only=True)
    max_bad_frac: float = field(default=0.01, kw_only=True)

    @abstractmethod
    def found(self, model: M, images: T, pixels: Pixels, truth: Any) -> Any:
        """What is known of one image by a model in eval mode."""

    @abstractmethod
    def shown(self, model: M, pixels: Pixels, truth: Any) -> Any:
        """What a picture shows of one image by a model in eval mode."""

    @abstractmethod
    def summed(self, found: list[Any], images: T) -> tuple[dict[str, float | None], dict[str, Any]]:
        """(scores, what else the results say) of what was found of each image."""

    def score(
        self,
        model: M,
        images: T,
        indices: Sequence[int],
        *,
        shared: bool = True,
        count: Callable[[int], object] = lambda more: None,
    ) -> Scored:
        """``shared``: every process calls this and does its part; all get the whole. Raises TooManyBadSamples."""
        found, skipped = over(
            model,
            indices,
            lambda index: images.read(index, self.feeding.channels),
            lambda both: self.found(model, images, *both),
            images.name,
            shared=shared,
            threads=self.threads,
            most_bad=self.max_bad_frac,
            count=count,
        )
        scores, more = self.summed(found, images)
        return Scored(scores, len(found), skipped, more)
