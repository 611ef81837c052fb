"""``dinov3 finetune evaluate ESTIMATOR``: its scores on other images, also with a smaller copy of its backbone."""

from __future__ import annotations

from typing import Any, cast

from dinov3.config.output import check_output_folder
from dinov3.dense.sets import open_parts
from dinov3.depth.building import feeding_of
from dinov3.depth.concluding import PICTURE, draw, results_of, sentence_of
from dinov3.depth.estimator_file import load_estimator
from dinov3.depth.measured import MeasuredSet
from dinov3.depth.scoring import Scorer
from dinov3.distributed.context import choose_device
from dinov3.engine.precision import resolve
from dinov3.finetune.evaluate import Asked
from dinov3.finetune.headed.evaluation import check_asked, reading_of
from dinov3.finetune.results import RESULTS
from dinov3.models.int8 import weights_in
from dinov3.system.bars import Bar
from dinov3.system.cores import cores
from dinov3.system.files import write_json


def evaluate(asked: Asked) -> int:
    """Write ``results.json`` and ``predictions.png`` into ``asked.out``; print the line of the scores.

    The images are the validation part of ``asked.data``. Raises what loading and reading raise.
    """
    check_output_folder(asked.out, "--out")
    estimator, about = load_estimator(asked.classifier, asked.backbone)
    check_asked(asked, estimator.backbone, about.crop_height)
    statistics = cast(Any, estimator.backbone).preprocess
    part = open_parts(asked.data, "depth", units=about.units)[1]
    measured = MeasuredSet(part, about.low, about.high, reading_of(statistics))
    precision = resolve("bf16", choose_device(asked.device))
    scorer = Scorer(feeding_of(statistics, about.short_side), precision, about.flip, about.eigen, cores())
    estimator.to(precision.device)
    with Bar(len(measured), about=asked.part, unit="images") as bar:
        scored = scorer.score(estimator, measured, range(len(measured)), count=bar.update)
    results = results_of(scored, about, asked.data, weights_in(estimator))
    asked.out.mkdir(parents=True, exist_ok=True)
    draw(scorer, estimator, measured, scored, str(asked.classifier), asked.out / PICTURE)
    write_json(asked.out / RESULTS, results)
    print(sentence_of(results))
    return 0
