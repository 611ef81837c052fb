"""Keys that take a list: data sets, and the sizes of several resolutions."""

from __future__ import annotations

import logging

import pytest

from dinov3.config.derived import crop_sizes
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config, to_yaml
from dinov3.config.schema import DatasetPart


def test_data_sets_are_listed_joined_or_mixed_by_weight(write) -> None:
    joined = load_config(write("train: {dataset_path: [/a, 'Tar:root=/b:c']}"))
    assert joined.train.dataset_path == ["/a", "Tar:root=/b:c"]
    path = write(
        "train:\n  dataset_path:\n    - {path: /a, weight: 3}\n    - path: ImageNet:split=TRAIN\n      weight: 1e-1"
    )
    mixed = load_config(path)
    assert mixed.train.dataset_path == [DatasetPart("/a", 3.0), DatasetPart("ImageNet:split=TRAIN", 0.1)]
    path.write_text(to_yaml(mixed))
    assert load_config(path) == mixed
    assert load_config(None, ["train.dataset_path=[/a, {path: /b}]"]).train.dataset_path == ["/a", DatasetPart("/b")]
    assert load_config(None, ['train.dataset_path="[a]"']).train.dataset_path == "[a]"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("[]", "train.dataset_path: must not be empty"),
        ("['']", "train.dataset_path: must not be empty"),
        ("[/a, {path: /b, wieght: 2}]", "train.dataset_path.wieght: unknown key"),
        ("[/a, {weight: 2}]", "train.dataset_path.path: is missing, it must be text"),
        ("[{path: /a, weight: 0}]", "train.dataset_path.weight: 0 is out of range: it must be > 0"),
        ("[{path: /a, weight: much}]", "train.dataset_path.weight: 'much' is not a number or null"),
        (
            "[{path: /a, weight: 1}, /b]",
            "train.dataset_path: some data sets have a weight and some have none: give it to all or to none",
        ),
        (
            "{path: /a}",
            "train.dataset_path: a block of keys is not text or a list (text or a block of keys each)",
        ),
        (
            "[{path: '${oc.env:HOME}'}]",
            "train.dataset_path: ${oc.env:HOME} is not allowed, a reference names another key",
        ),
    ],
)
def test_lists_of_data_sets_that_cannot_be_are_one_line(write, value: str, problem: str) -> None:
    path = write(f"train:\n  dataset_path: {value}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: {problem}"


def test_the_crops_of_the_published_high_resolution_stage_load_as_they_are(
    write, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = "[768, 1152, 1152, 1152, 1152]"
    text = f"""\
crops:
  global_crops_size: [512, 768, 768, 768, 768]
  local_crops_size: [112, 112, 168, 224, 336]
  global_local_crop_pairs_ratios: [0.3, 0.3, 0.3, 0.05, 0.05]
  gram_teacher_crops_size: {sizes}
"""
    path = write(text)
    with caplog.at_level(logging.WARNING):
        cfg = load_config(path)
    assert [tuple(row)[:3] for row in crop_sizes(cfg)] == [
        (512, 112, 768),
        (768, 112, 1152),
        (768, 168, 1152),
        (768, 224, 1152),
        (768, 336, 1152),
    ]
    assert [row.share for row in crop_sizes(cfg)] == pytest.approx([0.3, 0.3, 0.3, 0.05, 0.05])
    assert caplog.messages == [
        f"{path}: crops.local_crops_size: 168 is not a multiple of student.patch_size 16: "
        "the last 8 px are not seen; 160 is as good"
    ]
    assert load_config(write(to_yaml(cfg))) == cfg


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("[]", "must not be empty"),
        ("[224, x]", "'x' is not a whole number"),
        ("[224, null]", "null is not allowed, it must be a whole number"),
        ("{a: 1}", "a block of keys is not a whole number or a list (a whole number each)"),
        ("[224, 0]", "0 is out of range: it must be >= 1"),
    ],
)
def test_a_wrong_list_of_sizes_is_one_line(value: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"crops.global_crops_size={value}"])
    assert str(caught.value) == f"command line: crops.global_crops_size: {problem}"
