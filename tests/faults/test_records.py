"""Every JSON of ours, and of the data sets of others, with any value of it exchanged: it is read, or it is one line."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from dinov3.compress.report import FORMAT, draw, read_report
from dinov3.config.schema import Config
from dinov3.data.sources import parse_dataset
from dinov3.dense.matching.navi import photograph_pairs
from dinov3.dense.matching.pairs import coco_keypoints, spair
from dinov3.features.cache import MANIFEST, FeatureSet, write_manifest
from dinov3.features.shards import read_record, shard_is_whole, write_shard
from dinov3.finetune.report import rows_of
from dinov3.finetune.results import FORMAT as RESULTS_FORMAT
from dinov3.finetune.results import lines_of, read_results
from dinov3.generate.buckets import Bucket
from dinov3.generate.errors import GenerateError
from dinov3.generate.plan import PLAN_FORM, Plan, ShardPlan
from dinov3.generate.verify import read_manifest
from dinov3.runs.folder import RunFolder
from dinov3.runs.manifest import describe_file, problem_with, quick_problem_with, read_train_state
from dinov3.runs.recorded import read_config
from dinov3.runs.run_id import known_run_id
from dinov3.runs.stage_record import StageRecord, read_stages, write_stages
from dinov3.runs.student_folders import student_folders
from dinov3.system.errors import Foreseeable
from dinov3.system.json_file import JsonError, as_form

ODD: list[Any] = [None, True, -1, 0, 10**20, 1.5, float("inf"), float("nan"), "", "../x", "\x1b[31m\n", [], [[]], {}]
TEXTS = (b"", b"{", b"\xff\xfe", b"null", b"[]", b"3", b'"a"', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000)


def changed(content: Any) -> Iterator[Any]:
    """``content`` with each of its values exchanged for each odd one, and with each key left out."""
    for path in paths(content):
        for odd in ODD:
            yield put(content, path, odd)
        yield put(content, path, ...)


def paths(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(min(len(content), 2)):
            yield (*above, key)
            yield from paths(content[key], (*above, key))


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    fresh = copy.deepcopy(content)
    place = fresh
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return fresh


def survives(path: Path, read: Callable[[], object], *also: type[Exception]) -> None:
    """``read`` gives a value or one line, whatever is in ``path``, which is there and good."""
    good = json.loads(path.read_bytes())
    read()
    refused = 0
    for data in [*TEXTS, *(json.dumps(content).encode() for content in changed(good))]:
        path.write_bytes(data)
        try:
            read()
        except (Foreseeable, *also) as error:
            refused += 1
            assert "\n" not in str(error), data
            assert "\x1b" not in str(error), data
    assert refused > 3, "a reader that refuses nothing tests nothing"
    path.write_text(json.dumps(good))


@pytest.fixture
def features(tmp_path: Path) -> Path:
    tensors = {"features": torch.ones(3, 4), "index": torch.arange(3), "labels": torch.zeros(3, dtype=torch.int64)}
    entry = write_shard(tmp_path, "00000", tensors, "npy", {"first": 0, "skipped": []})
    write_manifest(tmp_path, {"a": 1}, 3, [], [entry])
    return tmp_path


def test_the_manifest_of_a_feature_set(features: Path) -> None:
    def read() -> None:
        found = FeatureSet(features)
        found.damaged()
        len(found)
        found.pooled()

    survives(features / MANIFEST, read)


def test_the_record_of_a_shard_of_features(features: Path) -> None:
    good = json.loads((features / "00000.json").read_text())
    taken = 0
    for content in changed(good):
        (features / "00000.json").write_text(json.dumps(content))
        record = read_record(features, "00000")
        taken += record is not None and shard_is_whole(features, record)
    for data in TEXTS:
        (features / "00000.json").write_bytes(data)
        assert read_record(features, "00000") is None
    assert taken > 0


def test_an_entry_leads_out_of_no_folder(features: Path) -> None:
    (features.parent / "elsewhere.npy").write_bytes((features / "00000.index.npy").read_bytes())
    entry = json.loads((features / "00000.json").read_text())
    entry["files"]["../elsewhere.npy"] = entry["files"].pop("00000.index.npy")
    assert not shard_is_whole(features, entry)


def test_arrays_that_claim_more_than_they_hold(features: Path) -> None:
    """A forged manifest agrees with a forged file."""
    import io

    import numpy as np

    memory = io.BytesIO()
    np.lib.format.write_array_header_1_0(memory, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)})
    path = features / "00000.features.npy"
    path.write_bytes(memory.getvalue())
    manifest = json.loads((features / MANIFEST).read_text())
    manifest["shards"][0]["files"][path.name] = describe_file(path)
    (features / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Foreseeable, match=r"cannot be read|do not fit"):
        FeatureSet(features).pooled()


def test_the_manifest_of_a_set_for_diffusion_transformers(tmp_path: Path) -> None:
    key = {"weights": "w", "preproc_hash": "p", "width": 8, "patch": 4, "pool": 1}
    row = {"name": "bucket_32x16/shard-000000.tar", "rows": 2, "size": 10, "sha256": "a"}
    content = {"format": "dinov3-dit", "format_version": 1, "key": key, "shards": [row], "rows": 2}
    from dinov3.generate.extract import FORMAT as DIT
    from dinov3.generate.extract import FORMAT_VERSION

    content |= {"format": DIT, "format_version": FORMAT_VERSION}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    survives(tmp_path / "manifest.json", lambda: read_manifest(tmp_path).rows, GenerateError)


def test_the_plan_of_such_a_set() -> None:
    from dinov3.data.bad_samples import BadSample

    plan = Plan([ShardPlan(Bucket(32, 16), 0, [0, 1])], [BadSample("a", "b")], [], 1.0)
    taken = 0
    for content in [plan.to_json(), *changed(json.loads(json.dumps(plan.to_json())))]:
        try:
            as_form(content, PLAN_FORM)
            again = Plan.from_json(content)
        except JsonError:
            continue
        taken += again == plan
        json.dumps(again.to_json())
    assert taken >= 1


def test_a_report_that_stands_beside_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for slow in ("savefig", "tight_layout"):
        monkeypatch.setattr(Figure, slow, lambda *args, **options: None)
    score = {"value": 0.9, "low": 0.8, "high": 1.0}
    side = {"bytes": 30, "metrics": {"AUROC": score}}
    rows = [{"where": "output", "mean": 0.9, "least": 0.8}]
    report = {"format": FORMAT, "method": "svd", "before": side, "after": side, "cosines": rows}
    path = tmp_path / "a.report.json"
    path.write_text(json.dumps(report))
    survives(path, lambda: draw([report, read_report(path)], tmp_path / "a.png"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What ``problem_with`` looks at."""
    folder = tmp_path / "step-00000004"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "a").write_bytes(b"x")
    counters = {"step": 4, "samples": 32, "skipped_steps": 0}
    state = {"counters": counters, "dataset": "2:ab", "run": "r", "config": {"train": {}}, "versions": {"torch": "2"}}
    (folder / "train_state.json").write_text(json.dumps(state))
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    files = {name: describe_file(folder / name) for name in ("train_state.json", "state/a")}
    (folder / "manifest.json").write_text(json.dumps({"format_version": 2, "step": 4, "files": files}))


def test_the_manifest_of_a_checkpoint(checkpoint: Path) -> None:
    def read() -> None:
        if problem := problem_with(checkpoint) or quick_problem_with(checkpoint):
            raise Foreseeable(problem)
        read_train_state(checkpoint)

    survives(checkpoint / "manifest.json", read)


def test_the_state_of_a_checkpoint_whose_manifest_agrees(checkpoint: Path) -> None:
    def read() -> None:
        seal(checkpoint)
        if problem := problem_with(checkpoint):
            raise Foreseeable(problem)
        state = read_train_state(checkpoint)
        assert state["counters"]["step"] >= 0
        assert state.get("config") is None or dict(state["config"]) is not None

    survives(checkpoint / "train_state.json", read)


def test_the_record_of_stages(tmp_path: Path) -> None:
    write_stages(tmp_path, [StageRecord("one", "1-one", 3, True), StageRecord("two", "2-two", 3, began_from="1-one/x")])

    def read() -> None:
        for stage in read_stages(tmp_path):
            assert (tmp_path / stage.folder).parent == tmp_path

    survives(tmp_path / "stages.json", read, ValueError)


def test_small_files_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for name, content in (
        ("run_id.json", {"wandb": "a"}),
        ("one/config.json", {"multidistillation": {"enabled": True}}),
    ):
        for data in [*TEXTS, *(json.dumps(c).encode() for c in changed(content))]:
            (tmp_path / name).write_bytes(data)
            assert isinstance(known_run_id(RunFolder(tmp_path)), str | None)
            assert student_folders(tmp_path) in ([], [tmp_path / "one"])
            _, problem = read_config(RunFolder(tmp_path / "one"), Config)
            assert problem is None or "\n" not in problem


def test_annotations_of_keypoints(tmp_path: Path) -> None:
    (tmp_path / "PairAnnotation" / "test").mkdir(parents=True)
    pair = {"category": "cat", "src_imname": "a.jpg", "trg_imname": "b.jpg", "trg_bndbox": [0, 0, 9, 9]}
    path = tmp_path / "PairAnnotation" / "test" / "a.json"
    path.write_text(json.dumps({**pair, "src_kps": [[1, 2]], "trg_kps": [[3, 4]]}))
    survives(path, lambda: spair(tmp_path))


def test_annotations_of_coco(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(2)]
    one = {"category_id": 1, "keypoints": [1, 2, 2], "bbox": [0, 0, 9, 9], "num_keypoints": 1}
    path = tmp_path / "people.json"
    path.write_text(json.dumps({"images": images, "annotations": [{**one, "image_id": i} for i in range(2)]}))
    survives(path, lambda: coco_keypoints(tmp_path, 5, 0))


def test_annotations_of_navi(tmp_path: Path) -> None:
    path = tmp_path / "object" / "scene" / "annotations.json"
    path.parent.mkdir(parents=True)
    camera = {"q": [1, 0, 0, 0], "t": [0, 0, 1], "focal_length": 50}
    rows = [{"filename": f"{i}.jpg", "image_size": [9, 9], "camera": camera} for i in range(2)]
    path.write_text(json.dumps(rows))
    survives(path, lambda: photograph_pairs(tmp_path))


def test_a_data_set_that_save_to_disk_wrote(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}], "_fingerprint": "x"}))
    (tmp_path / "a.arrow").write_bytes(b"")
    for data in [*TEXTS, *(json.dumps(c).encode() for c in changed({"_data_files": [{"filename": "a.arrow"}]}))]:
        (tmp_path / "state.json").write_bytes(data)
        with pytest.raises(Foreseeable) as error:
            parse_dataset(f"HuggingFace:root={tmp_path}")
        assert "\n" not in str(error.value)


def test_a_list_of_json_lines_holds_any_character(tmp_path: Path) -> None:
    """U+2028 is no end of a line in JSON."""
    (tmp_path / "a\u2028b.jpg").write_bytes(b"")
    (tmp_path / "list.jsonl").write_text(
        json.dumps({"path": "a\u2028b.jpg", "label": "x\x85y"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    source = parse_dataset(os.fspath(tmp_path / "list.jsonl"))
    assert len(source) == 1
    assert source.name(0).endswith(r"a\u2028b.jpg")


def test_the_results_of_a_fine_tuning_run(tmp_path: Path) -> None:
    score = {"value": 0.9, "low": 0.8, "high": None}
    part = {"images": 3, "scores": {"AUROC": score, "BalancedAcc": score}, "confusion": [[1, 0], [1, 1]]}
    content = {"format": RESULTS_FORMAT, "run": "a", "label": "b", "step": 1, "parameters": 2, "tta": False}
    content |= {"names": ["x", "y"], "notes": ["note: z"]}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**content, "sets": {"test": part}}))

    def read() -> None:
        found = read_results(path)
        lines_of(found)
        rows_of([(tmp_path, found)], "test")

    survives(path, read)
