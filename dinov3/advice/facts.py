"""What the rules look at: the images (a sample of them, read once), the machine, the goal."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dinov3.config.load import load_config
from dinov3.data.errors import DataError
from dinov3.data.sources import Source, parse_dataset
from dinov3.data.sources.heldout import EVERY
from dinov3.survey.report import value_ranges
from dinov3.survey.survey import NO_LABEL, Survey, survey
from dinov3.system.cores import cores
from dinov3.system.paths import expanded

SAMPLE = 256  # images that are read: a second or two
VALIDATION_NAMES = ("val", "valid", "validation")
TEST_NAMES = ("test", *VALIDATION_NAMES)
GB = 2**30


@dataclass(frozen=True)
class Images:
    """What a sample says of a data set. Sizes in px."""

    text: str  # as train.dataset_path
    images: int
    train: str  # what is trained on
    test: str | None = None  # labelled images for the k-NN; None: no classes to tell apart
    classes: int = 0
    class_names: tuple[str, ...] = ()  # of the source, where it has them
    validation: str | None = None  # a part of its own beside ``test``
    median_side: int = 224  # of the short sides
    channels: int = 3
    mean: tuple[float, ...] = ()  # by channel, pixels in [0, 1]
    std: tuple[float, ...] = ()
    values: tuple[float, float] | None = None  # least and largest, of files of more than 8 bits that are of one kind
    unreadable: float = 0.0  # share
    copies: float = 0.0  # share that equals another image

    @property
    def has_test_part(self) -> bool:
        """Whether ``test`` is a part of its own, not a fifth of what was named."""
        return self.test is not None and not self.test.startswith("HeldOut:")


@dataclass(frozen=True)
class Machine:
    """Cores, GPUs of one run, memory of one GPU in GB."""

    cores: int
    gpus: int = 0
    gpu: str = ""
    gpu_memory: float = 0.0


@dataclass(frozen=True)
class Case:
    """All that is known when a config is chosen."""

    data: Images
    machine: Machine
    goal: str = "pretrain"
    weights: str = ""
    shape_only: bool = False  # colours say nothing of what is to be told apart


def this_machine() -> Machine:
    """What a run started now would use: one GPU a process."""
    import torch

    if not torch.cuda.is_available():
        return Machine(cores())
    about = torch.cuda.get_device_properties(0)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return Machine(cores(), processes, about.name, about.total_memory / GB)


def look_at(text: str, *, workers: int = 0) -> Images:
    """Read a sample of the data set. Raises DataError when there is no image, or none that can be read."""
    train, test = split_of(text)
    source = parse_dataset(train)
    if len(source) == 0:
        raise DataError(f"{text}: contains no images")
    found = survey(source, limit=SAMPLE, workers=workers)
    if len(found.facts) == 0:
        _, bad = found.bad[0]
        raise DataError(f"{text}: none of {found.examined} images can be read; the first, {bad.name}: {bad.reason}")
    classes = _classes(found)
    if test is None and classes > 1 and len(source) >= 2 * EVERY * classes:
        inside = train.replace(":", "\\:")
        train, test = (f"HeldOut:of={inside}:part={part}" for part in ("train", "test"))
    elif test is None or classes < 2:
        classes, test = 0, None
    names = getattr(source, "classes", None)
    about = _described(text, source, found, train, test, classes)
    known = tuple(os.fsdecode(name) for name in names) if isinstance(names, list) else ()
    return replace(about, class_names=known, validation=validation_of(text) if about.has_test_part else None)


def _described(text: str, source: Source, found: Survey, train: str, test: str | None, classes: int) -> Images:
    facts = found.facts
    channels, count = np.unique(facts["channels"], return_counts=True)
    usual = int(channels[count.argmax()])
    moments = found.moments[usual]
    deep = list(value_ranges(facts).values())
    return Images(
        text=text,
        images=len(source),
        train=train,
        test=test,
        classes=classes,
        median_side=int(np.median(np.minimum(facts["height"], facts["width"]))),
        channels=usual,
        mean=tuple(moments.mean.round(4).tolist()),
        std=tuple(moments.std.round(4).tolist()),
        values=(deep[0]["low"], deep[0]["high"]) if len(deep) == 1 else None,
        unreadable=len(found.bad) / found.examined,
        copies=sum(len(group) - 1 for group in found.copies()) / len(facts),
    )


def _classes(found: Survey) -> int:
    """How many the sample has; 0 when an image has none."""
    labels = found.facts["label"]
    return 0 if (labels == NO_LABEL).any() else len(np.unique(labels))


def split_of(text: str) -> tuple[str, str | None]:
    """(what to train on, what to test on): ``train`` beside ``test`` or ``val``, as folders or as shards."""
    folder = expanded(text)
    if not folder.is_dir():
        return text, None
    for name in TEST_NAMES:
        if (folder / "train").is_dir() and (folder / name).is_dir():
            return str(folder / "train"), str(folder / name)
        if any(folder.glob("train-*.tar")) and any(folder.glob(f"{name}-*.tar")):
            return f"Tar:root={folder}/train-*.tar", f"Tar:root={folder}/{name}-*.tar"
    return text, None


def validation_of(text: str) -> str | None:
    """The validation part of a folder that has three."""
    folder = expanded(text)
    for name in VALIDATION_NAMES:
        if (folder / name).is_dir() and (folder / "test").is_dir():
            return str(folder / name)
        if any(folder.glob(f"{name}-*.tar")) and any(folder.glob("test-*.tar")):
            return f"Tar:root={folder}/{name}-*.tar"
    return None


def described_weights(weights: str | Path) -> dict[str, object]:
    """The keys of the block ``student`` that fit a weight file. Raises WeightsError, DataError for a ConvNeXt."""
    from dinov3.models.build import describe_backbone
    from dinov3.weights.own import load_backbone

    about = describe_backbone(load_backbone(expanded(weights)))
    if about["class"] != "DinoVisionTransformer":
        raise DataError(f"{weights}: a ConvNeXt: give its name, student.preset=…, in a YAML of your own")
    config, student = about["config"], load_config().student
    known = {
        **{key: config[key] for key in config if key in STUDENT_KEYS},
        "layerscale": config["layerscale_init"],
    }
    return {"arch": "vit_small", **{k: v for k, v in known.items() if k in SIZES or v != getattr(student, k)}}


SIZES = ("embed_dim", "depth", "num_heads", "patch_size")
STUDENT_KEYS = (
    *SIZES,
    *(
        "in_chans",
        "stem",
        "stem_filters",
        "ffn_ratio",
        "qkv_bias",
        "norm_layer",
        "ffn_layer",
        "ffn_bias",
        "proj_bias",
        "n_storage_tokens",
    ),
    *("mask_k_bias", "untie_cls_and_patch_norms", "untie_global_and_local_cls_norm", "pos_embed_rope_base"),
    *("pos_embed_rope_min_period", "pos_embed_rope_max_period", "pos_embed_rope_normalize_coords"),
    "pos_embed_rope_dtype",
)
