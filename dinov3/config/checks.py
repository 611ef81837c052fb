"""What must hold between keys. Each check yields (key, what is wrong and what to do)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields

from dinov3.config.archs import VIT_ARCHS
from dinov3.config.blocks.train import OTHER_CONTENT
from dinov3.config.derived import CONVNEXT_STRIDE, DA3_PATCH, crop_sizes, da3_input_size, statistics_batch
from dinov3.config.errors import KeyProblem
from dinov3.config.names import hint_of
from dinov3.config.schema import Config, ScheduleConfig

Problems = Iterator[tuple[str, str]]


def _schedules(cfg: Config) -> dict[str, ScheduleConfig]:
    """Every schedule that is on, by its key."""
    found = {}
    if cfg.schedules is not None:
        found = {f"schedules.{f.name}": getattr(cfg.schedules, f.name) for f in fields(cfg.schedules)}
    if cfg.dino.reweight_dino_local_loss:
        found["dino.local_loss_weight_schedule"] = cfg.dino.local_loss_weight_schedule
    if cfg.gram.use_loss and cfg.gram.loss_weight_schedule is not None:
        found["gram.loss_weight_schedule"] = cfg.gram.loss_weight_schedule
    for name, block in (
        ("feature_anchor", cfg.feature_anchor),
        ("feature_distillation", cfg.feature_distillation),
    ):
        if block.enabled and block.loss_weight_schedule is not None:
            found[f"{name}.loss_weight_schedule"] = block.loss_weight_schedule
    return found


CROP_SIZES = ("global_crops_size", "local_crops_size", "gram_teacher_crops_size")


def resolutions_are_complete(cfg: Config) -> Problems:
    lists = {name: getattr(cfg.crops, name) for name in (*CROP_SIZES, "global_local_crop_pairs_ratios")}
    lengths = {name: len(value) for name, value in lists.items() if isinstance(value, list)}
    if not lengths:
        return
    longest = max((name for name in CROP_SIZES if name in lengths), key=lengths.__getitem__, default=None)
    for name, length in lengths.items():
        if longest is None:
            yield f"crops.{name}", f"{lists[name]} shares out resolutions, but every crop has one size: give a number"
        elif length != lengths[longest]:
            yield (
                f"crops.{name}",
                f"{lists[name]} has {length} values, crops.{longest} has {lengths[longest]}: one each for every resolution",
            )


def crops_are_whole_patches(cfg: Config) -> Problems:
    patch = cfg.student.patch_size
    for name in CROP_SIZES:
        value = getattr(cfg.crops, name)
        for size in value if isinstance(value, list) else [value]:
            if name == "local_crops_size" and isinstance(value, list) and size >= patch:
                continue  # DINOv3's own list has 168 px with patch 16: load.py says what that means
            if size is not None and size % patch:
                low, high = size // patch * patch, (size // patch + 1) * patch
                use = f"{low} or {high}" if low else f"{high}"
                yield f"crops.{name}", f"{size} is not a multiple of student.patch_size {patch}: use {use}"


def local_crops_fit_into_global_ones(cfg: Config) -> Problems:
    for sizes in crop_sizes(cfg):
        if cfg.crops.localcrops_subset_of_globalcrops and sizes.local_size > sizes.global_size:
            yield (
                "crops.localcrops_subset_of_globalcrops",
                f"true, but crops.local_crops_size {sizes.local_size} cannot be cut out of "
                f"crops.global_crops_size {sizes.global_size}: lower it, or set this to false",
            )


def schedules_fit_into_training(cfg: Config) -> Problems:
    total, optim, teacher = cfg.optim.epochs, cfg.optim, cfg.teacher
    lengths: dict[str, float] = {}
    if cfg.schedules is None:
        lengths = {
            "optim.warmup_epochs": optim.warmup_epochs,
            "optim.freeze_last_layer_epochs": optim.freeze_last_layer_epochs,
            "teacher.warmup_teacher_temp_epochs": teacher.warmup_teacher_temp_epochs,
        }
    for name, schedule in _schedules(cfg).items():
        lengths[f"{name}.warmup_epochs"] = schedule.warmup_epochs
        lengths[f"{name}.cosine_epochs"] = schedule.warmup_epochs + (schedule.cosine_epochs or 0)
        lengths[f"{name}.freeze_last_layer_epochs"] = schedule.freeze_last_layer_epochs
    for key, length in lengths.items():
        if length > total:
            what = "ends at epoch" if key.endswith("cosine_epochs") else "is"
            yield key, f"{what} {length:g}, training only has optim.epochs {total}: shorten it or train longer"


def only_the_learning_rate_is_frozen(cfg: Config) -> Problems:
    for name, schedule in _schedules(cfg).items():
        if schedule.freeze_last_layer_epochs and name != "schedules.lr":
            yield f"{name}.freeze_last_layer_epochs", "only schedules.lr can freeze the last layers: set it to 0"


def schedule_values_make_sense(cfg: Config) -> Problems:
    if cfg.schedules is None:
        if cfg.optim.min_lr > cfg.optim.lr:
            yield "optim.min_lr", f"{cfg.optim.min_lr:g} is above optim.lr {cfg.optim.lr:g}: lower it"
    else:
        lr = cfg.schedules.lr
        if not max(lr.peak, lr.end) > 0:
            yield "schedules.lr.peak", f"{lr.peak:g} leaves the learning rate at 0 or below: it must be > 0"
    for name, schedule in _schedules(cfg).items():
        for point in ("start", "peak", "end"):
            value = getattr(schedule, point)
            if value < 0 or (name == "schedules.teacher_temp" and value == 0):
                need = "> 0" if name == "schedules.teacher_temp" else ">= 0"
                yield f"{name}.{point}", f"{value:g} is out of range: it must be {need}"
            if name == "schedules.momentum" and value > 1:
                yield f"{name}.{point}", f"{value:g} is out of range: it must be <= 1"


def rope_has_one_source_of_periods(cfg: Config) -> Problems:
    low, high = cfg.student.pos_embed_rope_min_period, cfg.student.pos_embed_rope_max_period
    base = cfg.student.pos_embed_rope_base
    if base is not None and (low is not None or high is not None):
        yield "student.pos_embed_rope_base", f"{base:g} and a period are both given: set one of them to null"
    if base is None and (low is None or high is None):
        yield "student.pos_embed_rope_base", "null needs pos_embed_rope_min_period and pos_embed_rope_max_period"
    if low is not None and high is not None and low >= high:
        yield "student.pos_embed_rope_min_period", f"{low:g} is not below pos_embed_rope_max_period {high:g}"


def heads_divide_the_width(cfg: Config) -> Problems:
    student = cfg.student
    arch = VIT_ARCHS.get(student.arch)
    if arch is None:
        return
    width, heads = student.embed_dim or arch["embed_dim"], student.num_heads or arch["num_heads"]
    step = 4 * heads
    if student.num_heads is not None and width % step and width % 4 == 0:
        fitting = [str(n) for n in range(1, width // 4 + 1) if width % (4 * n) == 0]
        yield (
            "student.num_heads",
            f"{heads}, but the width {width} is not a multiple of 4 * {heads}, which RoPE needs: "
            f"use {', '.join(fitting[:-1])} or {fitting[-1]}",
        )
    elif width % step:
        low, high = width // step * step, (width // step + 1) * step
        yield (
            "student.embed_dim",
            f"{width} is not a multiple of 4 * student.num_heads = {step}, which RoPE needs: "
            f"use {f'{low} or {high}' if low else high}",
        )


def convnexts_have_their_own_dimensions(cfg: Config) -> Problems:
    student = cfg.student
    if not student.arch.startswith("convnext"):
        return
    for name in ("embed_dim", "depth", "num_heads"):
        if (value := getattr(student, name)) is not None:
            yield f"student.{name}", f"{value} is for vision transformers: set it to null with {student.arch}"
    if student.stem != "patch":
        yield "student.stem", f"{student.stem} is for vision transformers: set it to patch with {student.arch}"
    if student.patch_size != CONVNEXT_STRIDE:  # masks and targets are counted in patches of the output
        yield (
            "student.patch_size",
            f"{student.patch_size}, but a patch token of {student.arch} stands for {CONVNEXT_STRIDE} px: "
            f"set it to {CONVNEXT_STRIDE}",
        )


def a_whitened_stem_has_sizes_that_fit(cfg: Config) -> Problems:
    """See ``dinov3/models/patch_embed.py: WhitenedStem``."""
    student = cfg.student
    if student.stem != "whitened" or student.arch not in VIT_ARCHS:
        return
    width = student.embed_dim or VIT_ARCHS[student.arch]["embed_dim"]
    for name, value in (("patch_size", student.patch_size), ("embed_dim", width)):
        if value % 2:
            yield (
                f"student.{name}",
                f"{value}, but a whitened stem wants it even: use {value + 1}, or student.stem=patch",
            )
    if student.stem_filters is not None and 2 * student.stem_filters < width:
        yield (
            "student.stem_filters",
            f"{student.stem_filters} is less than half of student.embed_dim {width}: use {width // 2} or more",
        )


def statistics_match_the_channels(cfg: Config) -> Problems:
    for name in ("rgb_mean", "rgb_std"):
        values = getattr(cfg.crops, name)
        if len(values) != cfg.student.in_chans:
            yield f"crops.{name}", f"{values} has {len(values)} values, student.in_chans is {cfg.student.in_chans}"


def koleo_has_neighbours(cfg: Config) -> Problems:
    if cfg.dino.koleo_loss_weight > 0 and not cfg.dino.koleo_loss_distributed and statistics_batch(cfg) == 1:
        yield (
            "train.batch_size_per_gpu",
            "1 leaves KoLeo without neighbours: use 2 or more, dino.koleo_loss_distributed=true, "
            "or dino.koleo_loss_weight=0",
        )


def gram_teacher_has_a_source(cfg: Config) -> Problems:
    gram = cfg.gram
    if not gram.use_loss:
        return
    if not gram.ema_teacher and gram.ckpt is None and gram.it_load_ema_teacher < 0:
        yield "gram.ckpt", "null leaves the Gram teacher without weights: give a file, or gram.source=init, ema or self"
    if gram.remove_neg and gram.remove_only_teacher_neg:
        yield "gram.remove_only_teacher_neg", "true, but gram.remove_neg is true as well: set one of them to false"
    if gram.tokens_used != "all" and gram.img_level:
        yield "gram.tokens_used", f"{gram.tokens_used} differs in number from image to image: set gram.img_level=false"


def distillation_has_its_files(cfg: Config) -> Problems:
    for name in ("full_cfg_path", "checkpoint_path"):
        if cfg.distillation.enabled and not getattr(cfg.distillation, name):
            yield f"distillation.{name}", "is empty: give the frozen model's config and weights"


def teacher_scale_has_a_teacher(cfg: Config) -> Problems:
    scale = cfg.crops.teacher_to_student_resolution_scale
    if scale != 1 and not cfg.distillation.enabled:
        yield (
            "crops.teacher_to_student_resolution_scale",
            f"{scale:g} lies between a frozen teacher and its student, and there is none: set it to 1, "
            "or distillation.enabled=true",
        )


def da3_sees_the_grid_of_the_student(cfg: Config) -> Problems:
    da3, crops, patch = cfg.da3, cfg.crops, cfg.student.patch_size
    if not da3.enabled:
        return
    resolutions = crop_sizes(cfg)
    for sizes in resolutions:
        cells = sizes.global_size // patch
        size, equal = da3_input_size(cfg, sizes.global_size), cells * DA3_PATCH
        if da3.grid_mode == "resize_input" and size != equal:
            use = equal if len(resolutions) == 1 else "null (each resolution has its own then)"
            yield (
                "da3.teacher_size",
                f"{size} gives the teacher a grid of {size / DA3_PATCH:g}, the student's is {cells}: "
                f"use {use}, or da3.grid_mode=interpolate_tokens",
            )
        if size % DA3_PATCH:
            low = size // DA3_PATCH * DA3_PATCH
            yield (
                "da3.teacher_size",
                f"{size} is not a multiple of the teacher's patch {DA3_PATCH}: use {low} or {low + DA3_PATCH}",
            )
        clean = crops.global_crops_clean_size
        if clean not in (None, size):
            yield "crops.global_crops_clean_size", f"{clean}, but DA3 wants {size}: set it to null"
    if da3.loss_on == "masked" and not cfg.ibot.mask_sample_probability * cfg.ibot.mask_ratio_min_max[1]:
        yield (
            "da3.loss_on",
            "masked, but no patch is ever masked: set ibot.mask_sample_probability and ibot.mask_ratio_min_max above 0, "
            "or da3.loss_on=all",
        )
    if cfg.student.in_chans != 3:
        yield "da3.enabled", f"true, but DA3 sees RGB and student.in_chans is {cfg.student.in_chans}: set it to false"


def mixed_data_all_have_weights(cfg: Config) -> Problems:
    named = cfg.train.dataset_path
    weights = [getattr(part, "weight", None) for part in named] if isinstance(named, list) else []
    if None in weights and any(weight is not None for weight in weights):
        yield "train.dataset_path", "some data sets have a weight and some have none: give it to all or to none"


def knn_has_both_sets(cfg: Config) -> Problems:
    knn = cfg.evaluation.knn
    for given, other in (("train", "test"), ("test", "train")):
        if getattr(knn, given) is not None and getattr(knn, other) is None:
            yield f"evaluation.knn.{other}", f"null, but evaluation.knn.{given} is given: give both or none"
    if knn.max_train is not None and knn.max_train < knn.k:
        yield "evaluation.knn.max_train", f"{knn.max_train} is fewer than evaluation.knn.k {knn.k} neighbours"


def skipped_steps_are_ranges(cfg: Config) -> Problems:
    for pair in cfg.data.skip_steps:
        if len(pair) != 2 or pair[0] > pair[1]:
            yield "data.skip_steps", f"{pair} is not [first, last], for example [[1200, 1215]]"


def training_starts_from_one_place(cfg: Config) -> Problems:
    start, student = cfg.start, cfg.student
    if not start.run:
        if start.optimizer:
            yield (
                "start.optimizer",
                "true, but there is no run to take moments from: give start.run, or set it to false",
            )
        return
    for name in ("pretrained_weights", "resume_from_teacher_chkpt"):
        if weights := getattr(student, name):
            yield f"student.{name}", f"{weights}, but start.run is {start.run}: give one of them"
    if start.optimizer and start.student == "ema":
        yield (
            "start.optimizer",
            "true, but the moments there are the student's: set it to false, or start.student=student",
        )


def allowed_changes_are_keys(cfg: Config) -> Problems:
    for name in set(cfg.resume.allow) - {OTHER_CONTENT}:
        try:
            hint_of(name, type(cfg))
        except KeyProblem as problem:
            yield "resume.allow", f"{name}: {problem.problem}"


def the_start_is_one_file(cfg: Config) -> Problems:
    student = cfg.student
    if student.pretrained_weights and student.resume_from_teacher_chkpt:
        yield "student.resume_from_teacher_chkpt", "student.pretrained_weights is given too: remove one of the two"
    if student.pretrained_allow and not (student.pretrained_weights or student.resume_from_teacher_chkpt):
        yield "student.pretrained_allow", "no student.pretrained_weights are given: remove it"


def fp8_layers_are_chosen_by_an_expression(cfg: Config) -> Problems:
    try:
        re.compile(cfg.student.fp8_filter)
    except re.error as error:
        yield "student.fp8_filter", f"{cfg.student.fp8_filter!r} is not a regular expression: {error}"


def blocks_are_compiled_where_anything_is(cfg: Config) -> Problems:
    if cfg.train.compile_blocks and not cfg.train.compile:
        yield "train.compile_blocks", "true, but nothing is compiled: set train.compile=true, or this to false"
    if cfg.train.compile_blocks and cfg.train.cudagraphs:
        yield (
            "train.compile_blocks",
            "true, but train.cudagraphs makes one graph of a backbone: set one of them to false",
        )


def cuda_graphs_have_one_shape(cfg: Config) -> Problems:
    if not cfg.train.cudagraphs:
        return
    if not cfg.train.compile:
        yield "train.cudagraphs", "true, but torch.compile makes them: set train.compile=true, or this to false"
    if cfg.train.gradient_accumulation_steps > 1:
        yield (
            "train.cudagraphs",
            "true, but parts of a step would overwrite each other's features: set train.gradient_accumulation_steps=1, "
            "or this to false",
        )


CHECKS = (
    fp8_layers_are_chosen_by_an_expression,
    cuda_graphs_have_one_shape,
    blocks_are_compiled_where_anything_is,
    resolutions_are_complete,
    crops_are_whole_patches,
    local_crops_fit_into_global_ones,
    schedules_fit_into_training,
    only_the_learning_rate_is_frozen,
    schedule_values_make_sense,
    rope_has_one_source_of_periods,
    heads_divide_the_width,
    convnexts_have_their_own_dimensions,
    a_whitened_stem_has_sizes_that_fit,
    statistics_match_the_channels,
    koleo_has_neighbours,
    gram_teacher_has_a_source,
    distillation_has_its_files,
    teacher_scale_has_a_teacher,
    da3_sees_the_grid_of_the_student,
    mixed_data_all_have_weights,
    knn_has_both_sets,
    skipped_steps_are_ranges,
    the_start_is_one_file,
    training_starts_from_one_place,
    allowed_changes_are_keys,
)
