"""One evaluation of frozen patch features, from its words to its table, its row and its picture."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from dinov3.dense.protocols import P, chosen
from dinov3.dense.report import LeftOut, check_places, finish
from dinov3.distributed import context
from dinov3.features.command import extractor_from
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor


class Found(Protocol):
    """What an evaluation found."""

    @property
    def scores(self) -> list[dict[str, Any]]:
        """A row a head or an average."""
        ...


D = TypeVar("D")  # its data
F = TypeVar("F", bound=Found)


class Evaluation(ABC, Generic[P, D, F]):
    """What one evaluation does its own way; ``execute`` is the command."""

    task: ClassVar[str]  # what its table and its rows call it

    def __init__(self, protocols: Mapping[str, P]) -> None:
        """``protocols``: its settings by name."""
        self.protocols: Mapping[str, P] = protocols

    @abstractmethod
    def check(self, protocol: P) -> None:
        """FeatureError for settings without a meaning."""

    @abstractmethod
    def open(self, args: argparse.Namespace, protocol: P) -> D:
        """The data, before weights are read. Raises DataError."""

    @abstractmethod
    def measure(
        self, args: argparse.Namespace, protocol: P, extractor: FeatureExtractor, data: D, left_out: LeftOut
    ) -> F:
        """The scores, and what else was found. Raises TooManyBadSamples, DataError; a ValueError is one of the features."""

    @abstractmethod
    def facts(self, found: F, extractor: FeatureExtractor) -> Mapping[str, Any]:
        """What stands in the row beside the scores."""

    def notes(self, found: F) -> Sequence[str]:
        """Lines below the table."""
        return ()

    @abstractmethod
    def draw(self, found: F, protocol: P, extractor: FeatureExtractor, args: argparse.Namespace) -> None:
        """The picture for ``--pictures``."""

    def execute(self, args: argparse.Namespace) -> int:
        """Run the command."""
        protocol = chosen(self.protocols, args.protocol, args.opts)
        self.check(protocol)
        check_places(args)
        data = self.open(args, protocol)
        extractor = extractor_from(args)
        left_out = LeftOut()
        try:
            found = self.measure(args, protocol, extractor, data, left_out)
        except (ValueError, FloatingPointError) as error:
            raise FeatureError(str(error)) from error
        finish(args, self.task, protocol, extractor, self.facts(found, extractor), found.scores, left_out)
        for line in self.notes(found):
            print(line)
        if args.pictures is not None:
            self.draw(found, protocol, extractor, args)
        context.teardown()
        return 0
