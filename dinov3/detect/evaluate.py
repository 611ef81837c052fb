"""``dinov3 finetune evaluate DETECTOR``: its scores on other images, also with a smaller copy of its backbone."""

from __future__ import annotations

from typing import Any, cast

from dinov3.config.output import check_output_folder
from dinov3.detect.boxed import open_parts
from dinov3.detect.building import views_of
from dinov3.detect.concluding import PICTURE, picture_of, results_of, sentence_of
from dinov3.detect.detector_file import load_detector
from dinov3.detect.scoring import Scorer
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
    detector, about = load_detector(asked.classifier, asked.backbone)
    check_asked(asked, detector.backbone, about.side)
    statistics = cast(Any, detector.backbone).preprocess
    boxed = open_parts(asked.data, reading_of(statistics), about.classes)[1]
    precision = resolve("bf16", choose_device(asked.device))
    scorer = Scorer(views_of(statistics, about.side), precision, about.least_score, about.overlap, cores())
    detector.to(precision.device)
    with Bar(len(boxed), about=asked.part, unit="images") as bar:
        scored = scorer.score(detector, boxed, range(len(boxed)), count=bar.update)
    results = results_of(scored, about, asked.data, weights_in(detector))
    asked.out.mkdir(parents=True, exist_ok=True)
    picture_of(scorer, detector, boxed, scored, about, str(asked.classifier), asked.out / PICTURE)
    write_json(asked.out / RESULTS, results)
    print(sentence_of(results))
    return 0
