from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from dinov3 import features
from dinov3.data.errors import TooManyBadSamples
from dinov3.dense.protocols import SEGMENT, TRACK, chosen
from dinov3.dense.report import LeftOut, finish, table
from dinov3.features.cache import weights_digest
from dinov3.features.errors import FeatureError


def test_lines_gather_in_one_file_and_hold_no_nan(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extractor = features.load(weights)
    args = argparse.Namespace(protocol="small", weights=Path("w"), data="d", out=tmp_path / "deep" / "all.jsonl")
    for score in (0.5, math.nan):
        scores = [{"mIoU": score, "of_class": [math.nan, 1.0]}]
        finish(args, "segmentation", SEGMENT["small"], extractor, {}, scores, LeftOut())
    rows = [json.loads(line, parse_constant=pytest.fail) for line in args.out.read_text().splitlines()]
    assert [row["scores"][0]["mIoU"] for row in rows] == [0.5, None]
    assert rows[0]["scores"][0]["of_class"] == [None, 1.0]
    assert rows[0]["settings"]["steps"] == 500
    assert rows[0]["weights_sha256"] == weights_digest(extractor.backbone)
    assert rows[0]["preprocess"] == extractor.preprocess.describe()
    assert "0.5000" in capsys.readouterr().out


def test_a_column_that_only_some_rows_have_is_a_dash() -> None:
    lines = table([{"head": "a", "x": 1.0, "hidden": [1]}, {"head": "b", "y": 2}])
    assert [line.split() for line in lines] == [["head", "x", "y"], ["a", "1.0000", "-"], ["b", "-", "2"]]


def test_more_than_the_share_is_an_error_that_names_the_first() -> None:
    left_out = LeftOut(of=10)
    left_out.add("a.png", "broken")
    left_out.check(0.1)
    with pytest.raises(TooManyBadSamples, match=r"1 of 10 cannot be used, the first a\.png: broken"):
        left_out.check(0.05)
    for i in range(9):
        left_out.add(f"{i}", "x")
    assert left_out.lines()[-1] == "  … and 5 more"


def test_the_limit_is_called_what_its_user_knows_it_as() -> None:
    left_out = LeftOut(of=10, limit="data.max_bad_frac")
    left_out.add("a.png", "broken")
    with pytest.raises(TooManyBadSamples, match=r"raise data\.max_bad_frac \(0\.05\)"):
        left_out.check(0.05)


def test_words_change_a_protocol_by_the_type_of_its_key() -> None:
    changed = chosen(TRACK, "davis", ["short_side=480", "radius=1.5", "skip_last=FALSE", "shape=square"])
    assert (changed.short_side, changed.radius, changed.skip_last, changed.shape) == (480, 1.5, False, "square")
    assert chosen(SEGMENT, "ade20k_linear", []).steps == 40_000
    for word in ("radius", "nothing=1", "short_side=1.5", "skip_last=1"):
        with pytest.raises(FeatureError, match=word.partition("=")[0]):
            chosen(TRACK, "davis", [word])
