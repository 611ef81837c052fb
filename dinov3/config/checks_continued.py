"""What must hold between the keys of continued training, and of what is measured meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

from dinov3.config.archs import VIT_ARCHS
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config

Problems = Iterator[tuple[str, str]]
DENSE_TASKS = ("seg", "depth", "match")  # the last needs no truth


def frozen_features_are_looked_at(cfg: Config) -> Problems:
    for name, block in (
        ("feature_anchor", cfg.feature_anchor),
        ("feature_distillation", cfg.feature_distillation),
    ):
        if not block.enabled:
            continue
        if not block.cls_weight and not block.patch_weight:
            yield f"{name}.cls_weight", f"0, and so is {name}.patch_weight: nothing is compared; set one above 0"
        masked = cfg.ibot.mask_sample_probability * cfg.ibot.mask_ratio_min_max[1]
        if block.tokens == "masked" and block.patch_weight and not masked:
            yield f"{name}.tokens", "masked, but no patch is ever masked: use all"
    if cfg.feature_distillation.enabled and not cfg.feature_distillation.checkpoint:
        yield "feature_distillation.checkpoint", "is empty: give the frozen backbone's run folder or weight file"


def frozen_blocks_exist(cfg: Config) -> Problems:
    if cfg.student.freeze_blocks and cfg.student.arch.startswith("convnext"):
        yield "student.freeze_blocks", f"{cfg.student.freeze_blocks} is for vision transformers: set it to 0"


def stop_rules_are_measured(cfg: Config) -> Problems:
    drift, knn = cfg.evaluation.drift, cfg.evaluation.knn
    if drift.stop_below is not None and not (drift.enabled and drift.period):
        yield "evaluation.drift.stop_below", "needs evaluation.drift.enabled=true and a period above 0"
    if knn.max_drop is not None and (knn.train is None or not knn.period):
        yield "evaluation.knn.max_drop", "needs evaluation.knn.train, .test and a period above 0"


def dense_tasks_have_data(cfg: Config) -> Problems:
    dense = cfg.evaluation.dense
    for task in DENSE_TASKS[:2]:
        if task in dense.tasks and dense.data_of.get(task, dense.data) is None:
            yield "evaluation.dense.data", f"null, but {task} needs one: give a folder of images and truths"
    for name, block in (("data_of", dense.data_of), ("settings", dense.settings)):
        for task in block:
            if task not in DENSE_TASKS:
                yield f"evaluation.dense.{name}.{task}", f"{task} is none of the tasks {', '.join(DENSE_TASKS)}"
    if len(set(dense.tasks)) < len(dense.tasks):
        yield "evaluation.dense.tasks", f"{dense.tasks} has one twice"
    if dense.tasks and cfg.student.in_chans != 3:
        yield "evaluation.dense.tasks", f"is for RGB, and student.in_chans is {cfg.student.in_chans}: set it to []"


def something_is_learned(cfg: Config) -> Problems:
    """A run that would end with the backbone it began with."""
    if not any(_weights_of_terms(cfg)):
        yield "dino.loss_weight", "0, and so is the weight of every other term: nothing is learned; set one above 0"
    depth = cfg.student.depth or VIT_ARCHS.get(cfg.student.arch, {}).get("depth")
    if depth is not None and cfg.student.freeze_blocks >= depth:
        yield (
            "student.freeze_blocks",
            f"{cfg.student.freeze_blocks} holds all {depth} blocks, so the backbone never trains: use at most {depth - 1}",
        )
    if cfg.lora.enabled and not cfg.lora.targets:
        yield "lora.targets", "is empty, so the backbone never trains: name layers, or set lora.enabled=false"
    if any(len(pair) == 2 and pair[0] <= 0 and pair[1] >= steps_of(cfg) - 1 for pair in cfg.data.skip_steps):
        yield "data.skip_steps", f"{cfg.data.skip_steps} jumps over all {steps_of(cfg)} steps of the run"
    if cfg.head_warmup.when == "always":
        yield from _idle_backbone(cfg)


def _weights_of_terms(cfg: Config) -> Iterator[float]:
    yield from (cfg.dino.loss_weight, cfg.dino.koleo_loss_weight, cfg.ibot.loss_weight)
    if cfg.da3.enabled:
        yield cfg.da3.loss_weight
    for on, block in (
        (cfg.gram.use_loss, cfg.gram),
        (cfg.feature_anchor.enabled, cfg.feature_anchor),
        (cfg.feature_distillation.enabled, cfg.feature_distillation),
    ):
        if on:
            schedule = block.loss_weight_schedule
            yield block.loss_weight if schedule is None else max(schedule.start, schedule.peak, schedule.end)


def steps_of(cfg: Config) -> int:
    """Optimizer steps after which the run ends."""
    total = cfg.optim.epochs * cfg.train.OFFICIAL_EPOCH_LENGTH
    return min(total, cfg.train.max_steps or total)


def _idle_backbone(cfg: Config) -> Problems:
    steps, total = cfg.head_warmup.steps, steps_of(cfg)
    if steps >= total:
        yield (
            "head_warmup.steps",
            f"{steps} steps of the heads alone, but the run ends at step {total}, so the backbone never trains: "
            f"lower it (for example {total // 10}), or train longer",
        )


def refuse_an_idle_backbone(cfg: Config, *, heads_missing: bool) -> None:
    """ConfigError when heads train alone to the end of the run; ``heads_missing``: the weights it starts from have none."""
    if cfg.head_warmup.when == "always" or (cfg.head_warmup.when == "heads_missing" and heads_missing):
        for key, problem in _idle_backbone(cfg):
            raise ConfigError("config", key, problem)


KEEP_CHECKS = (
    frozen_features_are_looked_at,
    frozen_blocks_exist,
    stop_rules_are_measured,
    dense_tasks_have_data,
    something_is_learned,
)
