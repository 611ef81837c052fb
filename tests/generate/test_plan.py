from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3.data.sources import parse_dataset
from dinov3.generate.errors import GenerateError
from dinov3.generate.plan import Form, Plan, make_plan
from dinov3.generate.shard_names import check_key
from tests.generate.sets import CAP, SIZING, write_images

FORM = Form("w" * 64, "p" * 16, 32, 16, 1)


def test_every_image_has_one_place_or_a_reason_and_the_plan_survives_json(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    (folder / "03.v1.png").write_bytes(b"nothing")
    source = parse_dataset(str(folder))
    plan = make_plan(source, SIZING, FORM, CAP, threads=2)
    places = [index for shard in plan.shards for index in shard.indices]
    assert sorted(places) == [0, 1, 2, 5, 6, 7, 8, 10, 11]
    assert [Path(bad.name).name for bad in plan.unreadable] == ["03.v1.png"]
    assert len(plan.too_long) == 2
    assert plan.images == 9
    assert 1 < plan.stretch <= 1.25
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert len({shard.name for shard in plan.shards}) == len(plan.shards)


def test_keys_are_good_for_webdataset_whatever_files_are_called() -> None:
    facts = FORM.facts("000000003", "a.b/c.d.png", SIZING.nearest(64, 64))
    assert facts["grid"] == [4, 4]
    check_key(facts["image_id"])


def test_a_data_set_without_a_usable_image_is_one_line(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 5)
    for name in ("00", "01", "02", "03"):
        (folder / f"{name}.v1.png").unlink()
    with pytest.raises(GenerateError, match=r"none of 1 images can be used, the first .*max-stretch"):
        make_plan(parse_dataset(str(folder)), SIZING, FORM, CAP)
