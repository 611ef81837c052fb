"""Sentences of advice when a run goes wrong in a way that its loss curve does not show."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinov3.config.schema import Config

Row = Mapping[str, Any]  # a line of metrics.jsonl
ALARMS = "alarms.jsonl"
SETTLED_STEPS, SETTLED_SHARE = 100, 0.01  # a run is judged after so many steps, or this share of a long one


FIRST_PAUSE = 10  # logged lines from a rule's first alarm to its second, at least


@dataclass(frozen=True)
class Rule:
    """What is wrong with a logged line, and what to do about it."""

    name: str
    wrong: Callable[[Row, Row], bool]  # of this line and the one before
    advice: Callable[[Row], str]
    in_a_row: int = 3  # logged lines that must be wrong
    settled: bool = True  # only once the run had time to get going


def rules_for(cfg: Config) -> list[Rule]:
    """The rules, with the numbers of this run in their advice."""
    entropy_limit = math.log(cfg.dino.head_n_prototypes)
    return [
        Rule(
            "collapse",
            lambda row, _: row.get("cls_spread", 1.0) < 0.05,
            lambda row: (
                f"class tokens of different images are nearly equal (cls_spread {row['cls_spread']:.3f}, healthy is near 1): "
                "the features have collapsed. Go back to an earlier checkpoint with a lower optim.lr, raise "
                "dino.koleo_loss_weight, and keep train.centering: sinkhorn_knopp"
            ),
        ),
        Rule(
            "teacher_says_nothing",
            lambda row, _: row.get("dino_teacher_entropy", 0.0) > 0.98 * entropy_limit,
            lambda row: (
                f"the teacher's targets are uniform (entropy {row['dino_teacher_entropy']:.2f}, ln K is {entropy_limit:.2f}), so "
                "there is nothing to learn from: lower teacher.teacher_temp and warmup_teacher_temp, in short runs also "
                "teacher.momentum_teacher"
            ),
        ),
        Rule(
            "dead_prototypes",
            lambda row, _: row.get("dino_prototype_usage", 1.0) < 0.05,
            lambda row: (
                f"a batch uses only {row['dino_prototype_usage']:.1%} of the prototypes it could: the targets hardly tell "
                "images apart. Use train.centering: sinkhorn_knopp, or raise teacher.teacher_temp"
            ),
        ),
        Rule(
            "not_finite",
            lambda row, before: row["skipped_steps"] - before.get("skipped_steps", 0) > 1,
            lambda row: (
                f"{row['skipped_steps']} steps were skipped so far because a loss or gradient was not finite: lower "
                "optim.lr, or look at the images (dinov3 data check)"
            ),
            in_a_row=1,
            settled=False,
        ),
        Rule(
            "waiting_for_data",
            lambda row, _: row["data_wait"] > 0.2,
            lambda row: (
                f"training waits for images {row['data_wait']:.0%} of the time ({row['images_per_second']:.0f} images/s): raise "
                f"train.num_workers (now {cfg.train.num_workers}), use a faster disk, or store smaller images"
            ),
            in_a_row=5,
        ),
    ]


class Alarms:
    """Looks at every logged line; a rule speaks when it has been broken for long enough, and again only after it was kept.

    A rule that is broken now and then waits twice as many lines after each of its alarms: advice, not a second log.
    """

    def __init__(self, cfg: Config, out: Path, total_steps: int) -> None:
        self._rules = rules_for(cfg) if cfg.evaluation.alarms else []
        self._path = out / ALARMS
        self._settled = max(SETTLED_STEPS, int(SETTLED_SHARE * total_steps))
        names = [rule.name for rule in self._rules]
        self._broken = dict.fromkeys(names, 0)  # lines in a row
        self._said = dict.fromkeys(names, False)  # in this row of them
        self._pause = dict.fromkeys(names, FIRST_PAUSE)  # lines between the last alarm and the next
        self._silent = dict.fromkeys(names, 0)  # lines left of it
        self._before: Row = {}

    def look(self, row: Row) -> list[str]:
        """The alarms this line sets off, also appended to ``alarms.jsonl``."""
        found = []
        for rule in self._rules:
            judged = not rule.settled or row["iteration"] >= self._settled
            wrong = judged and rule.wrong(row, self._before)
            self._broken[rule.name] = self._broken[rule.name] + 1 if wrong else 0
            self._said[rule.name] &= wrong
            self._silent[rule.name] -= 1
            if self._broken[rule.name] >= rule.in_a_row and not self._said[rule.name] and self._silent[rule.name] <= 0:
                self._said[rule.name] = True
                self._silent[rule.name] = self._pause[rule.name]
                self._pause[rule.name] *= 2
                text = f"alarm at step {row['iteration']}, {rule.name.replace('_', ' ')}: {rule.advice(row)}"
                with self._path.open("a") as file:
                    file.write(json.dumps({"iteration": row["iteration"], "alarm": rule.name, "text": text}) + "\n")
                found.append(text)
        self._before = row
        return found
