"""The rules behind ``dinov3 init FOLDER --goal finetune``: a classifier on a trained backbone. As in ``rules``."""

from __future__ import annotations

from typing import Any

from dinov3.advice.computed import always, batch_of, on_cpu
from dinov3.advice.facts import Case
from dinov3.advice.rules import RULES, Rule

FEW, MANY = 1000, 50_000  # images: below, a head alone; from there on, everything trains


def sets(case: Case) -> dict[str, Any]:
    """A test part of its own stays a test part: a fifth of the training images selects."""
    data = case.data
    if data.validation is not None:
        return {
            "train.dataset_path": data.train,
            "evaluation.validation": data.validation,
            "evaluation.test": data.test,
        }
    if not data.has_test_part:  # ``train`` and ``test`` are four fifths and one fifth of one set already
        return {"train.dataset_path": data.train, "evaluation.validation": data.test}
    inside = data.train.replace(":", "\\:")
    train, validation = (f"HeldOut:of={inside}:part={part}" for part in ("train", "test"))
    return {"train.dataset_path": train, "evaluation.validation": validation, "evaluation.test": data.test}


FINETUNE_RULES: dict[str, tuple[Rule, ...]] = {
    "what is trained on": (
        Rule(
            "a training, a validation and a test part",
            lambda c: c.data.validation is not None,
            sets,
            "validation selects the weights; the test part is scored once, at the end",
            "the three parts",
        ),
        Rule(
            "a training and a test part",
            lambda c: c.data.has_test_part,
            sets,
            "a fifth of the training images selects the weights; the test part is scored once, at the end",
            "every fifth image of each class",
        ),
        Rule(
            "always",
            always,
            sets,
            "a fifth of the images selects the weights, so its scores flatter: give evaluation.test images of its own where you have some",
            "every fifth image of each class",
        ),
    ),
    "how many at once": (
        Rule(
            "always",
            always,
            lambda c: {
                "train.batch_size_per_gpu": batch_of(c),
                "train.num_workers": min(10, max(1, c.machine.cores - 1)),
            },
            "64 images a step on a CPU; on a GPU 4 a GB of its memory, an estimate; never more than there are images",
            "a power of two, at most 512",
        ),
    ),
    "the backbone": (
        Rule("always", always, lambda c: {"model.weights": c.weights}, "what --weights names", "the path"),
    ),
    "what trains": (
        Rule(
            "a CPU, or fewer than 1,000 images",
            lambda c: on_cpu(c) or c.data.images < FEW,
            {
                "model.method": "head_only",
                "optim.lr": 0.01,
                "optim.epochs": 20,
                "optim.warmup_steps": 10,
                "optim.weight_decay": 1e-4,
            },
            "features are computed once, and the head then takes seconds. On 4,000 pictures with a backbone of the demo's kind a rate of "
            "0.001 had 80 % of validation right, 0.01 83 %, 0.05 85 %; one seed",
        ),
        Rule(
            "a GPU, fewer than 50,000 images",
            lambda c: c.data.images < MANY,
            {
                "model.method": "lora",
                "model.train_norms_bias": "both",
                "optim.lr": 2.5e-4,
                "optim.norms_bias_lr": 1e-4,
                "optim.epochs": 8,
                "optim.warmup_steps": 100,
                "optim.weight_decay": 1e-4,
                "lora.dropout": 0.1,
                "augment.preset": "flips",
                "augment.scale": [0.5, 1.0],
            },
            "an estimate: adapters hold on to what the backbone knows; rates as in pcam_lora",
        ),
        Rule(
            "a GPU",
            always,
            {
                "model.method": "fullft",
                "optim.lr": 2.5e-4,
                "optim.backbone_lr": 5e-5,
                "optim.layerwise_decay": 0.75,
                "optim.epochs": 8,
                "optim.warmup_steps": 400,
                "optim.weight_decay": 0.05,
                "augment.preset": "flips",
                "augment.scale": [0.5, 1.0],
            },
            "an estimate: enough images to move everything; rates as in pcam_fullft, lower in early blocks",
        ),
    ),
    "the values": RULES["the values"],
    "unreadable files": RULES["unreadable files"],
}
