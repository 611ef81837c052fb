"""``dinov3 finetune evaluate SEGMENTER``: its scores on other images, also with a smaller copy of its backbone."""

from __future__ import annotations

from typing import Any, cast

from dinov3.config.output import check_output_folder
from dinov3.dense.protocols import SegmentProtocol
from dinov3.dense.sets import open_parts
from dinov3.distributed.context import choose_device
from dinov3.engine.precision import resolve
from dinov3.finetune.evaluate import Asked
from dinov3.finetune.headed.evaluation import check_asked, reading_of
from dinov3.finetune.results import RESULTS
from dinov3.models.int8 import weights_in
from dinov3.segment.building import feeding_of
from dinov3.segment.concluding import PICTURE, draw, results_of, sentence_of
from dinov3.segment.masked import MaskedSet
from dinov3.segment.scoring import Scorer
from dinov3.segment.segmenter_file import load_segmenter
from dinov3.segment.validation import scores_of
from dinov3.system.bars import Bar
from dinov3.system.cores import cores
from dinov3.system.files import write_json


def evaluate(asked: Asked) -> int:
    """Write ``results.json`` and ``predictions.png`` into ``asked.out``; print the line of the scores.

    The images are the validation part of ``asked.data``. Raises what loading and reading raise.
    """
    check_output_folder(asked.out, "--out")
    segmenter, about = load_segmenter(asked.classifier, asked.backbone)
    statistics = cast(Any, segmenter.backbone).preprocess
    check_asked(asked, segmenter.backbone, about.crop)
    meaning = SegmentProtocol(ignore=about.ignore, reduce_zero=about.reduce_zero)
    masked = MaskedSet(open_parts(asked.data, "mask")[1], about.classes, meaning, reading_of(statistics))
    precision = resolve("bf16", choose_device(asked.device))
    scorer = Scorer(feeding_of(statistics, about.short_side), precision, about.crop, about.stride, cores())
    with Bar(len(masked), about=asked.part, unit="images") as bar:
        images = range(len(masked))
        scored = scorer.score(segmenter.to(precision.device), masked, images, show=True, count=bar.update)
    results = results_of(scored, about, asked.data, weights_in(segmenter))
    asked.out.mkdir(parents=True, exist_ok=True)
    draw(scored, about, f"{asked.classifier}: mIoU {scores_of(scored)['mIoU'] or 0:.3f}", asked.out / PICTURE)
    write_json(asked.out / RESULTS, results)
    print(sentence_of(results))
    return 0
