"""What a run measures: each figure by its name in metrics.jsonl and evaluation.jsonl, with its meaning and unit.

The one table that curves and page share. Shares are between 0 and 1 in the files, and per cent wherever people read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dinov3.system.rows import is_number


class Figure(NamedTuple):
    """One figure."""

    label: str  # short: in the legend of its panel
    meaning: str
    unit: str = ""

    @property
    def scale(self) -> int:
        """From the file to what people read."""
        return 100 if self.unit == "%" else 1


FIGURES: dict[str, Figure] = {
    "iteration": Figure("step", "training step, counted from 0"),
    "step": Figure("step", "training steps done when this was measured"),
    "samples": Figure("images seen", "images drawn so far, over all processes", "images"),
    "total_loss": Figure("total", "all loss terms, each times its weight"),
    "lr": Figure("lr", "learning rate of the backbone"),
    "last_layer_lr": Figure("last layer", "learning rate of the prototypes"),
    "wd": Figure("weight decay", "weight decay"),
    "mom": Figure("momentum", "share of the EMA teacher that stays at a step"),
    "teacher_temp": Figure("temperature", "softmax temperature of the teacher: small is sharp"),
    "dino_teacher_entropy": Figure("CLS token", "entropy of the teacher's targets for an image", "nats"),
    "ibot_teacher_entropy": Figure("masked patches", "entropy of the teacher's targets for a patch", "nats"),
    "dino_teacher_student_kl": Figure("student's distance", "divergence of the student from the targets", "nats"),
    "cls_spread": Figure("class tokens", "1 - mean cosine of class tokens of different images"),
    "dino_prototype_usage": Figure("prototypes, CLS", "prototypes a batch uses, of those it could"),
    "ibot_prototype_usage": Figure("prototypes, patches", "prototypes its masked patches use, of those they could"),
    "images_per_second": Figure("speed", "images trained on", "images/s"),
    "data_wait": Figure("waiting", "share of the time in which training waits for images", "%"),
    "skipped_steps": Figure("skipped", "steps without an update so far: a loss or gradient was not finite"),
    "knn_accuracy": Figure("k-NN", "test images whose nearest training images name their class", "%"),
    "linear_accuracy": Figure(
        "linear probe", "test images that a linear classifier of frozen features gets right", "%"
    ),
    "linear_learning_rate": Figure("probe's lr", "learning rate of the probe, the best on held-out images"),
    "seg_miou": Figure(
        "segmentation", "mean over classes of intersection over union, by a linear head on patches", "%"
    ),
    "seg_knn_miou": Figure("segmentation, k-NN", "the same, by the classes of the most similar patches", "%"),
    "seg_foreground_iou": Figure("foreground", "intersection over union of objects found by PCA, without labels", "%"),
    "match_recall": Figure(
        "matching", "patches found again, within a patch, in the image seen through a homography", "%"
    ),
    "match_recall_debiased": Figure("matching, debiased", "the same without what features say of their place", "%"),
    "depth_rmse": Figure("depth", "root mean square error of a linear head on patches", "m"),
    "rankme": Figure("RankMe", "effective number of dimensions that class tokens use"),
    "drift_cls_cosine": Figure("CLS cosine", "mean cosine of class tokens now and at the start"),
    "drift_cls_cka": Figure("CLS CKA", "likeness of the class tokens' geometry now and at the start"),
    "drift_patch_cosine": Figure("patch cosine", "mean cosine of patch features now and at the start"),
    "drift_patch_cka": Figure("patch CKA", "likeness of the patch features' geometry now and at the start"),
    "train_accuracy": Figure("training", "images of the batch whose class is named", "%"),
    "val_Acc": Figure("validation", "validation images whose class is named", "%"),
    "val_BalancedAcc": Figure("balanced", "mean over classes of the share that is named", "%"),
    "val_AUROC": Figure("AUROC", "chance that an image of a class is ranked above one of another"),
    "val_AUPRC": Figure("AUPRC", "average precision"),
    "val_NLL": Figure("NLL", "mean negative logarithm of the true class's probability", "nats"),
    "val_Brier": Figure("Brier", "mean squared error of the probabilities"),
    "val_ECE": Figure("ECE", "mean distance of confidence from accuracy"),
    "val_Sens95": Figure("sensitivity", "at a specificity of 95 %", "%"),
    "val_mIoU": Figure("mIoU", "mean over classes of intersection over union, of a segmenter", "%"),
    "val_mAP": Figure("box mAP", "mean average precision of a detector, over IoU of 0.5 to 0.95", "%"),
    "val_mAP50": Figure("at IoU 0.5", "mean average precision of boxes that overlap the true one by half", "%"),
    "val_rmse": Figure("RMSE", "root mean square error of a depth estimator", "m"),
    "checkpoint_seconds": Figure("a save", "time of the last save", "s"),
    "checkpoint_blocked_seconds": Figure("waiting for a save", "time in which training waited for it", "s"),
    "checkpoint_bytes": Figure("checkpoint", "size of the last checkpoint", "bytes"),
}
ENDINGS = {"_loss": "loss term, before its weight", "_grad_norm": "length of the gradient before it is clipped"}


def figure(key: str) -> Figure:
    """The entry of ``key``; losses and gradient norms, one a term or module, are known by their ending."""
    if key in FIGURES:
        return FIGURES[key]
    for ending, meaning in ENDINGS.items():
        if key.endswith(ending):
            return Figure(key.removesuffix(ending).replace("_", " "), meaning)
    return Figure(key, "")


# What a run is judged by: told first to last wherever a run is summed up.
HEADLINES = ("knn_accuracy", "linear_accuracy", "seg_miou", "depth_rmse", "match_recall")


def first_to_last(key: str, rows: Sequence[Mapping[str, object]], between: str) -> str | None:
    """``27.1 to 35.4 %`` of rows of evaluation.jsonl, ``between`` being `` to ``; None where it was not measured."""
    known = figure(key)
    measured = [known.scale * value for row in rows if is_number(value := row.get(key))]
    if not measured:
        return None
    form = ".1f" if known.unit == "%" else ".4g"
    return f"{measured[0]:{form}}{between}{measured[-1]:{form}} {known.unit}".rstrip()


class PanelPlan(NamedTuple):
    """What one small plot shows."""

    title: str
    note: str  # one line below the title: how to read it
    keys: Sequence[str]
    evaluations: bool = False  # from evaluation.jsonl


def plans(losses: Sequence[str], norms: Sequence[str]) -> list[PanelPlan]:
    """All panels in their order; ``losses`` and ``norms``: the keys of this run's terms and modules."""
    return [
        PanelPlan("Losses", "each term before its weight; total: with weights", losses),
        PanelPlan("Accuracy of frozen features, %", "on labelled images", ["knn_accuracy", "linear_accuracy"], True),
        PanelPlan(
            "Patch features, %",
            "frozen: classes of pixels (mean IoU), places found again",
            ["seg_miou", "seg_knn_miou", "seg_foreground_iou", "match_recall", "match_recall_debiased"],
            True,
        ),
        PanelPlan("Depth from patch features, m", "root mean square error, frozen features", ["depth_rmse"], True),
        PanelPlan(
            "Validation, %", "of a classifier that is fine-tuned", ["val_Acc", "val_BalancedAcc", "val_Sens95"], True
        ),
        PanelPlan(
            "Validation of a dense head, %", "masks: mIoU; boxes: mAP", ["val_mIoU", "val_mAP", "val_mAP50"], True
        ),
        PanelPlan("Validation of depth, m", "0: every distance is right", ["val_rmse"], True),
        PanelPlan("Validation, ranking", "1: every image above all of other classes", ["val_AUROC", "val_AUPRC"], True),
        PanelPlan("Validation, probabilities", "0: certain and right", ["val_NLL", "val_Brier", "val_ECE"], True),
        PanelPlan(
            "Targets, nats",
            "entropy: ln K = uniform, 0 = certain; distance: what the student has yet to learn",
            ["dino_teacher_entropy", "ibot_teacher_entropy", "dino_teacher_student_kl"],
        ),
        PanelPlan(
            "Variety",
            "near 1: healthy, 0: collapsed; class tokens apart, prototypes in use",
            ["cls_spread", "dino_prototype_usage", "ibot_prototype_usage"],
        ),
        PanelPlan("Effective rank (RankMe)", "dimensions that class tokens use; falls in a collapse", ["rankme"], True),
        PanelPlan("Likeness to the start", "1: as at the start", [k for k in FIGURES if k.startswith("drift_")], True),
        PanelPlan("Gradient norms", "before clipping, a module each", norms),
        PanelPlan("Learning rate", "of the backbone, without its multipliers", ["lr"]),
        PanelPlan("Weight decay", "without multipliers", ["wd"]),
        PanelPlan("Momentum of the EMA teacher", "share that stays at a step", ["mom"]),
        PanelPlan("Temperature of the teacher", "small: sharp targets", ["teacher_temp"]),
        PanelPlan("Speed, images/s", "over all processes", ["images_per_second"]),
        PanelPlan("Waiting for images, % of the time", "above 20: more workers, a faster disk", ["data_wait"]),
    ]


def shown(key: str, value: object) -> str:
    """A value of a file for people: four digits, shares in per cent."""
    if value is None:
        return ""
    if not is_number(value):
        return str(value)
    scaled = figure(key).scale * value
    return f"{scaled:.4g}" if isinstance(scaled, float) else str(scaled)


def heading(key: str) -> str:
    """``knn_accuracy, %``."""
    return f"{key}, {unit}" if (unit := figure(key).unit) else key
