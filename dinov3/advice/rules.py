"""The rules behind ``dinov3 init`` and ``dinov3 train FOLDER``, as one table: docs/choices.md is made from it.

Of each subject the first rule that fits is taken. ``why`` says what a choice rests on: a recipe's measurement, a fact of
the images, or an estimate, which is called one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dinov3.advice.computed import (
    GENTLE_OPTIM,
    RELEASED_VIT,
    SHAPE_COLOURS,
    SHAPE_OPTIM,
    SHORT_OPTIM,
    SMALL_CROPS,
    TINY_CROPS,
    TINY_VIT,
    Keys,
    always,
    batch_of,
    channels,
    crops,
    crops_of_weights,
    epoch_of,
    evaluation,
    from_weights,
    is_small,
    is_tiny,
    model_of_weights,
    on_cpu,
    prototypes,
    short_epochs,
    teacher,
    value_range,
    whitens,
)
from dinov3.advice.facts import Case


class Rule(NamedTuple):
    """``when``: in words, ``fits``: the same in code; ``formula``: what ``keys`` computes, where it computes."""

    when: str
    fits: Callable[[Case], bool]
    keys: Keys | Callable[[Case], Keys]
    why: str
    formula: str = ""

    def chosen(self, case: Case) -> Keys:
        """The keys and values for ``case``."""
        return self.keys(case) if callable(self.keys) else self.keys


RULES: dict[str, tuple[Rule, ...]] = {
    "what is trained on": (
        Rule(
            "always",
            always,
            lambda c: {
                "train.dataset_path": c.data.train,
                "train.batch_size_per_gpu": batch_of(c),
                "train.num_workers": min(10, max(1, c.machine.cores - 1)),
                "train.log_every": 1 if c.data.images < 1000 else 10,
            },
            "64 images a step on a CPU; on a GPU 4 a GB of its memory, an estimate; never more than there are images",
            "a power of two, at most 512",
        ),
    ),
    "the model": (
        Rule(
            "it goes on from weights",
            from_weights,
            model_of_weights,
            "the architecture is that of the weights",
            "the keys of student.* that the weights have",
        ),
        Rule(
            "a CPU, a thousand images below 128 px",
            whitens,
            {**TINY_VIT, "student.stem": "whitened", "student.stem_filters": 192},
            "whitened patches of the images are worth more than minutes of training: measured with demo_cpu and cifar10_cpu",
        ),
        Rule(
            "a CPU",
            on_cpu,
            TINY_VIT,
            "a tiny ViT is what two cores train in minutes: measured with demo_cpu and cifar10_cpu. LayerScale would keep "
            "its blocks silent for longer than the run",
        ),
        Rule(
            "8 GPUs and a million images",
            lambda c: c.machine.gpus >= 8 and c.data.images >= 1_000_000,
            {**RELEASED_VIT, "student.arch": "vit_large", "student.drop_path_rate": 0.3},
            "the official recipe: vitl_im1k",
        ),
        Rule(
            "a GPU and 500,000 images",
            lambda c: c.data.images >= 500_000,
            {**RELEASED_VIT, "student.arch": "vit_base", "student.drop_path_rate": 0.1},
            "an estimate: a ViT-B wants more images than a ViT-S",
        ),
        Rule(
            "a GPU",
            always,
            {**RELEASED_VIT, "student.arch": "vit_small"},
            "an estimate: few images do not fill a larger model",
        ),
    ),
    "how large the crops are": (
        Rule(
            "it goes on from weights",
            from_weights,
            crops_of_weights,
            "as large as the images, in whole patches of the weights; high-res: 512 px",
            "32, 96, 224 or 512 px; local crops 3/7 of that",
        ),
        Rule(
            "short side below 48 px, and patches are whitened",
            lambda c: is_tiny(c) and whitens(c),
            {**crops(8, 32, 16, 2), **TINY_CROPS, "crops.global_crops_scale": [0.6, 1.0]},
            "16 patches of 8 px; blur hides much at 32 px: measured with cifar10_cpu",
        ),
        Rule(
            "short side below 48 px",
            is_tiny,
            {**crops(4, 32, 16, 2), **TINY_CROPS},
            "64 patches of 4 px: measured with cifar10_cpu before its patches were whitened",
        ),
        Rule(
            "short side below 128 px, and patches are whitened",
            whitens,
            {**crops(8, 32, 16, 4), **SMALL_CROPS},
            "16 patches of 8 px cost less than half of 36, and learn more in a short run: measured with demo_cpu",
        ),
        Rule(
            "short side below 128 px",
            is_small,
            {**crops(8, 48, 24, 4), **SMALL_CROPS},
            "36 patches of 8 px: measured with demo_cpu before its patches were whitened",
        ),
        Rule(
            "a CPU",
            on_cpu,
            {
                **crops(16, 96, 48, 4),
                "crops.global_crops_scale": [0.5, 1.0],
                "crops.local_crops_scale": [0.2, 0.5],
            },
            "36 patches a crop, an estimate",
        ),
        Rule("a GPU", always, crops(16, 224, 96, 8), "the official sizes"),
    ),
    "how much colours change": (
        Rule(
            "--shape-only",
            lambda c: c.shape_only,
            SHAPE_COLOURS,
            "any hue, and half of the crops grey: as demo_cpu, which ends 19 points of k-NN higher so than with DINOv3's colours (three seeds). Where "
            "a class is a stain it cost 11 points (one seed)",
        ),
    ),
    "the prototypes and the teacher": (
        Rule(
            "distillation of features",
            lambda c: c.goal == "distill",
            {**prototypes(16, 64, 256, 0.02), "teacher.warmup_teacher_temp_epochs": 0},
            "the heads exist and learn nothing",
        ),
        Rule(
            "it goes on from weights",
            from_weights,
            {
                "dino.head_n_prototypes": 4096,
                "ibot.head_n_prototypes": 4096,
                "teacher.momentum_teacher": 0.999,
                "teacher.warmup_teacher_temp_epochs": 2,
            },
            "the start is good: leave it slowly",
        ),
        Rule(
            "a CPU",
            on_cpu,
            lambda c: {**prototypes(max(16, 2 * batch_of(c)), 192, 64, 0.125), **teacher(0.8, 0.007)},
            "as many prototypes as a step has global crops, and a teacher so sharp that a short run leaves ln K: measured "
            "with demo_cpu and cifar10_cpu",
            "twice the batch",
        ),
        Rule(
            "a million images",
            lambda c: c.data.images >= 1_000_000,
            {"dino.head_n_prototypes": 65536, "ibot.head_n_prototypes": 65536},
            "the official number",
        ),
        Rule(
            "a GPU",
            always,
            {
                "dino.head_n_prototypes": 4096,
                "ibot.head_n_prototypes": 4096,
                "teacher.momentum_teacher": 0.99,
                "teacher.warmup_teacher_temp_epochs": 10,
            },
            "an estimate: 65,536 prototypes want batches of a thousand and more",
        ),
    ),
    "how long, and how fast": (
        Rule(
            "it goes on from weights",
            from_weights,
            lambda c: {
                "train.OFFICIAL_EPOCH_LENGTH": min(epoch_of(c), 20 if on_cpu(c) else 100),
                "optim.epochs": 10 if on_cpu(c) else 30,
                "optim.warmup_epochs": 1,
                "optim.lr": 5e-5,
                "optim.min_lr": 1e-6,
                "optim.scaling_rule": "none",
                "optim.weight_decay": 0.04,
                "optim.weight_decay_end": 0.04,
                "optim.layerwise_decay": 0.75,
                "head_warmup.steps": 20 if on_cpu(c) else 300,
            },
            "twenty times below pretraining, lower still in early blocks; heads alone first",
            "one pass over the images an epoch, at most 100 steps",
        ),
        Rule(
            "a CPU, patches are whitened, and --shape-only",
            lambda c: whitens(c) and c.shape_only,
            lambda c: {**short_epochs(c), **SHORT_OPTIM, **SHAPE_OPTIM},
            "600 steps with the rate of demo_cpu: 300 added 1.8 points of k-NN to its start, 600 add 7.1 (five seeds)",
            "20 steps an epoch",
        ),
        Rule(
            "a CPU, and patches are whitened",
            whitens,
            lambda c: {**short_epochs(c), **SHORT_OPTIM, **GENTLE_OPTIM},
            "what begins with features of these images should keep them: 200 steps, a low rate and a large KoLeo weight, measured with "
            "cifar10_cpu; made pictures of twenty classes lost 5 points of k-NN by lr 0.003 and 400 steps, and none so (one seed)",
            "20 steps an epoch",
        ),
        Rule(
            "a CPU",
            on_cpu,
            lambda c: {**short_epochs(c), **SHORT_OPTIM},
            "minutes, not days: 400 steps, 600 of patches of 4 px; the learning rate of demo_cpu",
            "20 steps an epoch",
        ),
        Rule(
            "a GPU",
            always,
            lambda c: {
                "train.OFFICIAL_EPOCH_LENGTH": epoch_of(c),
                "optim.epochs": 100,
                "optim.warmup_epochs": 10,
                "optim.lr": 0.001,
                "optim.scaling_rule": "sqrt_wrt_1024",
            },
            "a hundred passes over the images; the official rate for 1,024 images a step",
            "one pass over the images an epoch, at most 1,000 steps",
        ),
    ),
    "what holds old features": (
        Rule(
            "goal continue",
            lambda c: c.goal == "continue",
            {
                "feature_anchor.enabled": True,
                "feature_anchor.loss_weight": 5.0,
                "feature_anchor.tokens": "unmasked",
                "optim.lr": 2e-4,
                "optim.layerwise_decay": 0.9,
                "teacher.momentum_teacher": 0.996,
                "evaluation.drift.enabled": True,
                "evaluation.drift.period": 100,
                "evaluation.drift.stop_below": 0.5,
            },
            "a frozen copy of the start, which lets rates be higher, and an end to a run whose features leave it: as continue_small",
        ),
        Rule(
            "goal high-res",
            lambda c: c.goal == "high-res",
            lambda c: {
                "gram.use_loss": True,
                "gram.source": "init",
                "student.pos_embed_rope_rescale_coords": 2.0,
                "evaluation.drift.enabled": True,
            },
            "patch similarities stay those of the weights; RoPE's coordinates are rescaled at random: as vitl_high_res",
        ),
    ),
    "the teacher of the features": (
        Rule(
            "goal distill",
            lambda c: c.goal == "distill",
            lambda c: {
                "feature_distillation.enabled": True,
                "feature_distillation.checkpoint": c.weights,
                "dino.loss_weight": 0.0,
                "dino.koleo_loss_weight": 0.0,
                "ibot.loss_weight": 0.0,
                "ibot.mask_sample_probability": 0.0,
                "crops.local_crops_number": 0,
            },
            "its class and patch features are matched; the self-supervised terms are off: as distill_features_vits",
        ),
    ),
    "how good it is": (
        Rule(
            "two classes or more, ten images a class",
            lambda c: c.data.test is not None,
            evaluation,
            "k-NN accuracy before and after, on images that are not trained on; training never looks at classes",
        ),
    ),
    "the channels": (
        Rule(
            "not three channels",
            lambda c: c.data.channels != 3,
            channels,
            "measured on the sample; operations on colour are off",
            "mean and standard deviation of each channel",
        ),
    ),
    "the values": (
        Rule(
            "more than 8 bits a value",
            lambda c: c.data.values is not None,
            value_range,
            "from what the sample holds; 0 is black",
            "[0, the next 2^n - 1 above the largest value]",
        ),
    ),
    "unreadable files": (
        Rule(
            "above half a per cent of the sample",
            lambda c: c.data.unreadable > 0.005,
            lambda c: {"data.max_bad_frac": min(1.0, round(2 * c.data.unreadable + 0.005, 3))},
            "they are replaced by other images and listed in bad_samples.jsonl; the run ends above this share. "
            "`dinov3 data check` names them",
            "twice the share of the sample",
        ),
    ),
    "copies": (
        Rule(
            "one image a step",
            lambda c: batch_of(c) == 1,
            {"dino.koleo_loss_weight": 0.0},
            "KoLeo needs neighbours",
        ),
        Rule(
            "above 5 per cent of the sample are equal files",
            lambda c: c.data.copies > 0.05,
            {"dino.koleo_loss_weight": 0.0},
            "KoLeo pushes equal images apart",
        ),
    ),
    "number formats": (
        Rule(
            "always",
            always,
            {"compute_precision.param_dtype": "auto", "compute_precision.cpu_dtype": "auto"},
            "bf16 on a GPU that has it, and on a CPU that multiplies matrices in it (AMX, AVX-512 bf16): 300 steps of demo_cpu learned as much with it (AMX, three seeds)",
        ),
    ),
    "checkpoints": (
        Rule("a CPU", on_cpu, {"checkpointing.period": 100}, "about a minute's work"),
        Rule("a GPU", always, {"checkpointing.period": 1000}, "some minutes' work"),
    ),
}
