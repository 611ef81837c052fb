"""What can go wrong in self-supervised training that its loss curve does not show, and what to do about it."""

from __future__ import annotations

import math

from dinov3.config.schema import Config
from dinov3.runs.alarms import Rule
from dinov3.system.cores import load_on_cores


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
                f"training waits for images {row['data_wait']:.0%} of the time ({row['images_per_second']:.0f} images/s): "
                f"raise train.num_workers (now {cfg.train.num_workers}), use a faster disk, or store smaller images{load_on_cores()}"
            ),
            in_a_row=5,
        ),
    ]
