"""Blocks of the images: crops and augmentation, tolerance for bad files, evaluation."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinov3.config.spec import key

FROM_PRESET = "null: as crops.augmentation says"


@dataclass
class CropsConfig:
    global_crops_scale: list[float] = key(
        [0.32, 1.0], "least and largest share of the image a global crop covers", length=2, ordered=True, gt=0, le=1
    )
    local_crops_number: int = key(8, "local crops an image", ge=0)
    local_crops_scale: list[float] = key(
        [0.05, 0.32], "least and largest share of the image a local crop covers", length=2, ordered=True, gt=0, le=1
    )
    global_crops_size: int | list[int] = key(
        224,
        "side of a global crop; a list: several resolutions, one is drawn for every step",
        unit="px",
        ge=1,
        nonempty=True,
    )
    local_crops_size: int | list[int] = key(
        96, "side of a local crop; a list goes with that of global_crops_size", unit="px", ge=1, nonempty=True
    )
    global_local_crop_pairs_ratios: float | list[float] = key(
        1.0,
        "how often each resolution is drawn, relative to the others; one number: equally often",
        gt=0,
        nonempty=True,
    )
    gram_teacher_crops_size: int | list[int] | None = key(
        None,
        "side of the Gram teacher's crops, one or as many as global crops have; null: none",
        unit="px",
        ge=1,
        nonempty=True,
    )
    localcrops_subset_of_globalcrops: bool = key(False, "cut the local crops out of the global ones")
    share_color_jitter: bool = key(False, "one colour jitter for all crops of an image")
    horizontal_flips: bool = key(True, "flip half of the crops left to right")
    gram_teacher_no_distortions: bool = key(False, "no photometric changes in the Gram teacher's crops")
    rgb_mean: list[float] = key([0.485, 0.456, 0.406], "subtracted from each channel (pixels in [0, 1])")
    rgb_std: list[float] = key([0.229, 0.224, 0.225], "then each channel is divided by it", gt=0)
    teacher_to_student_resolution_scale: float = key(
        1.0,
        "a distilled teacher is shown the global crops at 1 / this of their size: 2 gives a ViT/16 the grid of a ConvNeXt",
        ge=1,
    )
    global_crops_clean: bool = key(False, "also give the global crops without photometric changes")
    global_crops_clean_size: int | None = key(None, "their side; null: global_crops_size", unit="px", ge=1)
    augmentation: Literal["official", "published", "histology"] = key(
        "official", "photometric preset: what DINOv3's code does, what it was written to do, or modest for tissue"
    )
    color_jitter_prob: float | None = key(None, f"probability of colour jitter; {FROM_PRESET}", ge=0, le=1)
    brightness: float | None = key(None, f"brightness factor in 1 ± this; {FROM_PRESET}", ge=0)
    contrast: float | None = key(None, f"contrast factor in 1 ± this; {FROM_PRESET}", ge=0)
    saturation: float | None = key(None, f"saturation factor in 1 ± this; {FROM_PRESET}", ge=0)
    hue: float | None = key(None, f"hue moves by up to this; {FROM_PRESET}", unit="turns", ge=0, le=0.5)
    grayscale_prob: float | None = key(None, f"probability of grayscale; {FROM_PRESET}", ge=0, le=1)
    blur_prob_global_1: float | None = key(None, f"blur of the first global crop; {FROM_PRESET}", ge=0, le=1)
    blur_prob_global_2: float | None = key(None, f"blur of the second global crop; {FROM_PRESET}", ge=0, le=1)
    blur_prob_local: float | None = key(None, f"blur of the local crops; {FROM_PRESET}", ge=0, le=1)
    blur_sigma: list[float] | None = key(
        None, f"least and largest sigma of the blur; {FROM_PRESET}", unit="px", length=2, ordered=True, gt=0
    )
    solarize_prob_global_2: float | None = key(
        None, f"solarisation of the second global crop; {FROM_PRESET}", ge=0, le=1
    )
    vertical_flips: bool | None = key(None, f"flip half of the crops top to bottom; {FROM_PRESET}")
    rot90: bool | None = key(None, f"turn crops by 0, 90, 180 or 270 degrees; {FROM_PRESET}")
    stain_prob: float | None = key(
        None, f"probability of Reinhard's stain normalisation, before all else; {FROM_PRESET}", ge=0, le=1
    )
    stain_mean: list[float] | None = key(
        None,
        "mean of tissue it aims at, in l, α, β (natural logarithms of 0 to 255); null: that of a standard H&E slide",
        length=3,
    )
    stain_std: list[float] | None = key(
        None, "standard deviation it aims at, in l, α, β; null: likewise", length=3, gt=0
    )


@dataclass
class DataConfig:
    max_bad_frac: float = key(0.01, "share of unreadable images that ends the run", ge=0, le=1)
    max_pixels: int = key(
        64_000_000,
        "images of more pixels count as unreadable; at most what Pillow decodes",
        unit="px",
        ge=1,
        le=178_956_970,
    )
    value_range: list[float] | None = key(
        None,
        "[black, white] of images of more than 8 bits a value; null: 0 to 65535 for 16 bits, for float and 32 bits each "
        "image's own range",
        length=2,
        ordered=True,
    )
    skip_steps: list[list[int]] = key(
        [],
        "[first, last] steps whose batches are drawn but not trained on, to jump over bad ones after a rollback",
        ge=0,
    )


@dataclass
class KnnConfig:
    train: str | None = key(None, "labelled data set that votes, as in train.dataset_path; null: no k-NN")
    test: str | None = key(None, "labelled data set that is classified; null: no k-NN")
    period: int = key(0, "steps between two; 0: only before and after training", unit="steps", ge=0)
    k: int = key(20, "neighbours that vote", ge=1)
    temperature: float = key(0.07, "a vote weighs exp(cosine / temperature)", gt=0)
    max_train: int | None = key(None, "images of train used at most; null: all", unit="images", ge=1)
    max_test: int | None = key(None, "images of test used at most; null: all", unit="images", ge=1)
    linear: bool = key(False, "also train a linear probe on the same frozen features: linear_accuracy")
    linear_epochs: int = key(30, "passes of the probe over them", unit="epochs", ge=1)
    max_drop: float | None = key(
        None, "save and stop when accuracy is more than this below the first one; null: never", ge=0, le=1
    )


@dataclass
class DriftConfig:
    enabled: bool = key(False, "compare the EMA teacher's features of fixed images with those at the start")
    dataset: str | None = key(None, "where the images come from, as in train.dataset_path; null: from there")
    images: int = key(256, "images, evenly spread over the data set", unit="images", ge=2)
    period: int = key(0, "steps between two; 0: only before and after training", unit="steps", ge=0)
    stop_below: float | None = key(
        None, "save and stop when the mean cosine of the CLS tokens falls below this; null: never", ge=-1, le=1
    )


@dataclass
class DenseConfig:
    tasks: list[Literal["seg", "depth", "match"]] = key(
        [], "what the EMA teacher's patch features are measured by; []: nothing (docs/dense.md)"
    )
    data: str | None = key(None, "as --data of `dinov3 eval seg`; null: match uses train.dataset_path")
    data_of: dict[str, str] = key({}, "of single tasks, in place of data: {depth: ...}")
    period: int = key(0, "steps between two; 0: only before and after training", unit="steps", ge=0)
    limit: int | None = key(200, "images of each part used at most, of match: in all; null: all", unit="images", ge=5)
    settings: dict[str, list[str]] = key(
        {}, "changes of the small protocols, as the key=value words of `dinov3 eval`: {depth: [low=0.1, high=10]}"
    )


@dataclass
class EvaluationConfig:
    eval_period_iterations: int = key(
        12500, "steps between evaluations; evaluation.knn.period here", unit="steps", ge=0, dead=True
    )
    low_freq_every: int = key(5, "every how many of them is a long one", ge=1, dead=True)
    config_files: dict[str, str] = key(
        {"high_freq": "benchmark_high_frequency.yaml", "low_freq": "benchmark_low_frequency.yaml"},
        "benchmarks run by Meta's own evaluation",
        dead=True,
    )
    knn: KnnConfig = key(KnnConfig, "k-nearest-neighbour accuracy of the EMA teacher's CLS token")
    drift: DriftConfig = key(DriftConfig, "how far the features have moved from where they started")
    dense: DenseConfig = key(DenseConfig, "segmentation, depth and matching by the EMA teacher's patch features")
    alarms: bool = key(
        True,
        "say so, with advice, when features collapse, targets are uniform, prototypes die or images come too slowly",
    )
    pictures: bool = key(
        True,
        "draw curves.png, pca.png (patch features as colours) and, with evaluation.knn, neighbours.png when training ends",
    )
    pictures_period: int = key(
        0, "steps between pictures/pca-STEP.png of the same images; 0: only pca.png at the end", unit="steps", ge=0
    )
