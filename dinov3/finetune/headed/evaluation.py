"""How a finished model is scored, shown and told: at the end of a run, and by ``dinov3 finetune evaluate``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, cast

import torch

from dinov3.config.errors import ConfigError
from dinov3.data.decode import USUAL, Reading
from dinov3.data.sources.imagefolder import refuse_inside
from dinov3.distributed.context import choose_device
from dinov3.engine.precision import Precision, resolve
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.evaluate import FOREIGN, Asked, foreign
from dinov3.finetune.headed.product import A, M, Product
from dinov3.finetune.headed.scoring import Scored, Scorer, T
from dinov3.finetune.results import RESULTS, Results, checked_results
from dinov3.models.backbone import Backbone
from dinov3.models.int8 import weights_in
from dinov3.runs.output import check_results_folder
from dinov3.system.bars import Bar
from dinov3.system.cores import cores
from dinov3.system.files import write_json
from dinov3.system.json_file import Maybe
from dinov3.weights.fingerprint import procedural_image
from dinov3.weights.parity import tokens_of

PICTURE = "predictions.png"
SHOWN = 6  # images of the picture


class Judge(ABC, Generic[M, A, T]):
    """Of one task. ``results.json`` and ``predictions.png`` are the same files whoever asks for them."""

    product: Product[M, A]
    kind: ClassVar[str]  # of run, for messages
    format: ClassVar[str]  # of results.json
    tells: ClassVar[
        Mapping[str, str]
    ]  # scores that are said: name -> words with {} for the number; the first one selects

    @property
    def select(self) -> str:
        """The score of validation by which weights are kept."""
        return next(iter(self.tells))

    # ------------------------------------------------------------------ what a task adds

    @abstractmethod
    def side(self, about: A) -> int:
        """Pixels of a view, which patches must divide."""

    @abstractmethod
    def validation(self, data: str, about: A, reading: Reading) -> T:
        """The validation part of ``data``. Raises DataError."""

    @abstractmethod
    def scorer(
        self,
        about: A,
        preprocess: Mapping[str, Any],
        precision: Precision,
        *,
        threads: int,
        max_bad_frac: float = Scorer.max_bad_frac,
    ) -> Scorer[M, T]:
        """How images are put through the model that ``about`` describes."""

    @abstractmethod
    def label(self, about: A) -> str:
        """What the head is, in a word or two."""

    @abstractmethod
    def facts(self, about: A) -> dict[str, Any]:
        """What else the results say of the head."""

    @abstractmethod
    def draw(self, about: A, shown: Sequence[Any], names: Sequence[str], title: str, path: Path) -> None:
        """A PNG of images with their truth and what is said of them, as ``Scorer.shown`` has it."""

    # ------------------------------------------------------------------ the same for all

    def write(
        self,
        out: Path,
        name: str,
        data: str,
        scorer: Scorer[M, T],
        model: M,
        about: A,
        images: T,
        scored: Scored,
        weights: int,
    ) -> Results:
        """Write both files into ``out``, the results last: they say that all is there."""
        bad = {one.name for one in scored.skipped}
        usable = [index for index in range(len(images)) if images.name(index) not in bad][:SHOWN]
        best = self.tells[self.select].format(f"{scored.scores[self.select] or 0:.3f}")
        shown = [scorer.shown(model, *images.read(index, scorer.feeding.channels)) for index in usable]
        self.draw(about, shown, [f"image {index}" for index in usable], f"{name}: {best}", out / PICTURE)
        told = cast(Any, about)
        results = {
            "format": self.format,
            "label": f"{self.label(about)}, backbone {'frozen' if told.frozen else 'trained'}",
            "weights": told.weights,
            "data": data,
            **self.facts(about),
            "step": told.step,
            "parameters": weights,
            "images": scored.images,
            "left_out": [asdict(one) for one in scored.skipped],
            "scores": scored.scores,
            **scored.more,
        }
        write_json(out / RESULTS, results)
        return results

    def read_results(self, path: Path) -> Results:
        """Raises FinetuneError for a file that is none."""
        scores = {self.select: Maybe(float), str: Maybe(float)}
        form = {"step": int, "label": str, "images": int, "parameters": Maybe(int), "scores": scores}
        return checked_results(self.kind, path, self.format, form)

    def columns(self, results: Mapping[str, Any]) -> dict[str, str]:
        """What a table of several runs says of one."""
        told = {key: str(results.get(key, "")) for key in ("weights", "data")}
        found = {"head": results["label"], "step": str(results["step"]), "images": f"{results['images']:,}"}
        if (weights := results.get("parameters")) is not None:
            found["parameters"] = f"{weights / 1e6:.2f} M"
        values = {name: results["scores"].get(name) for name in self.tells}
        return found | {name: "not defined" if v is None else f"{v:.4f}" for name, v in values.items()} | told

    def sentence(self, results: Mapping[str, Any]) -> str:
        """One line of a finished run."""
        scores = results["scores"]
        said = [
            words.format("not defined" if scores.get(name) is None else f"{scores[name]:.4f}")
            for name, words in self.tells.items()
        ]
        return f"{results['label']}; {results['images']} images: {', '.join(said)}"

    def evaluate(self, asked: Asked) -> int:
        """Write both files into ``asked.out``; print the line of the scores.

        The images are the validation part of ``asked.data``. Raises what loading and reading raise.
        """
        check_results_folder(asked.out, "--out")
        refuse_inside(asked.out, asked.data)
        model, about = self.product.load(asked.classifier, asked.backbone)
        check_asked(asked, model.backbone, self.side(about))
        notes = [] if asked.backbone is None else self._doubts(asked, model, self.side(about))
        preprocess = cast(Any, model.backbone).preprocess
        images = self.validation(asked.data, about, reading_of(preprocess))
        precision = resolve("bf16", choose_device(asked.device))
        scorer = self.scorer(about, preprocess, precision, threads=cores(), max_bad_frac=asked.max_bad_frac)
        model.to(precision.device)
        with Bar(len(images), about=asked.part, unit="images") as bar:
            scored = scorer.score(model, images, range(len(images)), count=bar.update)
        asked.out.mkdir(parents=True, exist_ok=True)
        name, weights = str(asked.classifier), weights_in(model)
        said = self.sentence(self.write(asked.out, name, asked.data, scorer, model, about, images, scored, weights))
        print("\n".join([said, *notes]))
        return 0

    @torch.no_grad()
    def _doubts(self, asked: Asked, model: M, side: int) -> list[str]:
        """A note when the backbone that was put in says other things of a drawn picture than the head's own."""
        own, other = (cast(Any, one).backbone for one in (self.product.load(asked.classifier)[0], model))
        picture = procedural_image(own.in_chans, side, side)
        close = float(torch.cosine_similarity(tokens_of(own, picture), tokens_of(other, picture), dim=-1).mean())
        return [foreign(asked.backbone, close)] if close < FOREIGN else []


def check_asked(asked: Asked, backbone: Backbone, side: int) -> None:
    """ConfigError for an option that is for classifiers; FinetuneError for a backbone that cannot see views of ``side`` px."""
    if asked.tta:
        raise ConfigError("command line", "--tta", "is for classifiers: leave it out")
    if side % backbone.stride:
        raise FinetuneError(f"{asked.backbone}: a patch of {backbone.stride} px does not divide {side}")


def reading_of(preprocess: Mapping[str, Any]) -> Reading:
    """How images are read for the backbone whose file says ``preprocess``."""
    white = preprocess.get("value_range")
    return USUAL if white is None else Reading(value_range=(white[0], white[1]))
