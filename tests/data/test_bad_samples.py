from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3.data.bad_samples import LEAST_SAMPLES, BadSample, BadSampleCount, BadSampleLog
from dinov3.data.errors import TooManyBadSamples


def test_a_bad_image_is_written_down_once(tmp_path: Path) -> None:
    log = BadSampleLog(tmp_path / "bad_samples.jsonl")
    for name in ("a.jpg", "b.jpg", "a.jpg"):
        log(BadSample(name, "truncated"))
    rows = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert rows == [{"name": "a.jpg", "reason": "truncated"}, {"name": "b.jpg", "reason": "truncated"}]


def test_a_resumed_run_and_another_process_do_not_write_it_again(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.jsonl"
    first, second = BadSampleLog(path), BadSampleLog(path)
    first(BadSample("a", "x"))
    second(BadSample("a", "x"))
    second(BadSample("b", "x"))
    first(BadSample("b", "x"))
    BadSampleLog(path)(BadSample("a", "x"))
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_names_that_are_not_text_are_written(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    BadSampleLog(tmp_path / "log")(BadSample(name, "new\nline"))
    assert json.loads((tmp_path / "log").read_text()) == {"name": name, "reason": "new\nline"}


def end_of(limit: float, share: float, batches: int = 200, batch: int = 50) -> int | None:
    """Samples after which ``share`` bad ones end a run, None if they do not."""
    count, owed = BadSampleCount(limit), 0.0
    for n in range(batches):
        owed += share * batch
        bad = [BadSample("x", "y")] * int(owed)
        owed -= int(owed)
        try:
            count.add(batch, bad)
        except TooManyBadSamples:
            return (n + 1) * batch
    return None


def test_a_share_below_the_limit_never_ends_a_run() -> None:
    assert end_of(0.01, 0.01) is None


def test_a_share_far_above_the_limit_ends_a_run_soon() -> None:
    ended = end_of(0.01, 0.10)
    assert ended is not None
    assert ended <= 100


def test_a_share_a_little_above_the_limit_ends_a_run_in_time() -> None:
    ended = end_of(0.01, 0.015)
    assert ended is not None
    assert ended > 1000


def test_a_few_bad_ones_at_the_start_are_forgiven_and_none_at_limit_zero() -> None:
    count = BadSampleCount(0.01)
    count.add(8, [BadSample("x", "y")] * 3)
    assert count.bad < 0.01 * LEAST_SAMPLES + 3
    with pytest.raises(TooManyBadSamples, match="1 unreadable images among 8 samples, the last x: y"):
        BadSampleCount(0.0).add(8, [BadSample("x", "y")])
