from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml

from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.data.crops import BOX_DRAWS, random_resized_box
from dinov3.survey.report import DataReport, counted, enlarged, histogram, report_of, value_advice
from dinov3.survey.survey import survey
from tests.data.fakes import Pictures


def report(source: Pictures, cfg: Config | None = None) -> DataReport:
    return report_of("pictures", source, survey(source), cfg or Config())


def test_the_statistics_can_be_pasted_into_a_config(tmp_path: Path) -> None:
    for channels in (1, 3, 5):
        found = report(Pictures(12, channels=channels))
        path = tmp_path / f"{channels}.yaml"
        path.write_text("\n".join(found.yaml_lines()))
        cfg = load_config(path)
        assert cfg.student.in_chans == channels
        pixels = [np.asarray(Pictures(12, channels=channels).read(n)) / 255 for n in range(12)]
        np.testing.assert_allclose(cfg.crops.rgb_mean, np.mean([p.mean((0, 1)) for p in pixels], axis=0), atol=6e-5)
        assert all(0.05 < std < 0.5 for std in cfg.crops.rgb_std)
        assert "\n".join(found.yaml_lines()) in "\n".join(found.lines())


def test_images_that_disagree_about_channels_get_no_statistics() -> None:
    class Mixed(Pictures):
        def read(self, index: int) -> bytes | np.ndarray:
            self.channels = 1 + index % 2
            return super().read(index)

    text = "\n".join(report(Mixed(4)).lines())
    assert "the images do not agree: 1, 2" in text
    assert "rgb_mean" not in text


@pytest.mark.parametrize(("size", "scale"), [(224, (0.32, 1.0)), (96, (0.05, 0.32)), (224, (1.0, 1.0))])
def test_the_share_of_enlarged_crops_is_that_of_drawn_boxes(size: int, scale: tuple[float, float]) -> None:
    sizes = np.random.default_rng(0).integers(100, 700, (4000, 1)) * np.array([[1.0, 1.1]])
    draws = np.random.default_rng(1).random((len(sizes), BOX_DRAWS)).tolist()
    boxes = [random_resized_box(d, int(h), int(w), scale) for d, (h, w) in zip(draws, sizes, strict=True)]
    counted = np.mean([box.height * box.width < size**2 for box in boxes])
    assert abs(enlarged(sizes.prod(1), size, scale) - counted) < 0.03


def test_small_images_get_advice_that_is_a_multiple_of_the_patch() -> None:
    found = report(Pictures(40))  # 40 to 89 px
    text = "\n".join(found.lines())
    assert found.resolution["images_below_global_crop"] == 1
    assert found.resolution["advised_global_crop"] in (32, 48)
    assert f"crops.global_crops_size={found.resolution['advised_global_crop']:.0f}" in text
    cfg = Config()
    cfg.crops.global_crops_size = 32
    assert "three quarters" not in "\n".join(report(Pictures(40), cfg).lines())


def test_a_histogram_has_no_empty_bins_at_its_ends_and_loses_nothing() -> None:
    bins = histogram(np.array([40, 33, 200, 5000]))
    assert next(iter(bins)) == "32-63"
    assert list(bins)[-1] == "4096-"
    assert bins["64-95"] == 0
    assert sum(bins.values()) == 4
    assert histogram(np.array([], dtype=int)) == {}


def test_long_lists_are_cut_in_the_text_only() -> None:
    found = report(Pictures(30, bad=frozenset(range(9))))
    text = "\n".join(found.lines())
    assert "picture-4: on purpose" in text
    assert "picture-5" not in text
    assert "and 4 more" in text
    assert len(found.unreadable) == 9
    assert found.unreadable_share == 0.3


def test_nothing_readable_is_reported_without_statistics() -> None:
    found = report(Pictures(3, bad=frozenset(range(3))))
    lines = list(found.lines())
    assert "unreadable 3 (100.00%)" in lines[1]
    assert not any("formats" in line for line in lines)


def test_yaml_lines_are_yaml() -> None:
    assert set(yaml.safe_load("\n".join(report(Pictures(6, channels=5)).yaml_lines()))) == {"student", "crops"}


def test_shards_of_which_only_a_part_is_left_are_named() -> None:
    class Torn(Pictures):
        damaged: ClassVar[dict[str, str]] = {"a.tar": "ends in the middle of image 7"}

    found = report(Torn(4))
    assert found.damaged == {"a.tar": "ends in the middle of image 7"}
    assert "a.tar: ends in the middle of image 7" in "\n".join(found.lines())


def test_one_of_a_kind_is_singular_and_an_empty_bin_has_no_bar() -> None:
    assert [counted(1, "class"), counted(2, "class"), counted(1, "group"), counted(1200, "group")] == [
        *("1 class", "2 classes", "1 group", "1,200 groups"),
    ]
    found = report(Pictures(40))
    found.short_side, found.blank = {"32-63": 1, "64-95": 0, "96-127": 900}, 1
    found.equal_files = [["a", "b"]]
    lines = list(found.lines())
    assert "  equal files  1 too many, in 1 group" in lines
    assert "  blank        1 image with almost no contrast" in lines
    bars = [line.count("█") for line in lines if " px " in line and line.rstrip("█ ")[-1].isdigit()][:3]
    assert bars == [1, 0, 40]


def test_a_range_that_ends_in_what_stands_for_no_data_is_not_advised() -> None:
    advice = value_advice("TIFF F", -9999.0, 186.0, None)
    assert "-9999, which stands for no data" in advice
    assert advice.endswith("data.value_range=[LOW, 186]")
    assert value_advice("TIFF I", 3.0, float(np.finfo("f4").max), None).endswith("data.value_range=[3, HIGH]")
    assert value_advice("TIFF F", 0.5, 186.0, None).endswith("data.value_range=[0.5, 186]")
