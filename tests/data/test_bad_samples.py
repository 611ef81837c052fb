from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


NOISE = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b'{"name": "/x/y.jpg", "reason": "Unident', b"[1]\n", b'{"name": [1]}\n', b"\xff\n", b"[" * 9999 + b"\n"]
    ),
)


@given(st.lists(NOISE, max_size=4), st.lists(st.sampled_from("abcd"), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_whatever_the_file_holds_each_bad_image_is_written_once_on_a_line_of_its_own(
    noise: list[bytes], names: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bad_samples.jsonl"
        for n, name in enumerate(names):
            if n < len(noise):  # another process is cut off, or the disk is full
                with path.open("ab") as file:
                    file.write(noise[n])
            BadSampleLog(path)(BadSample(f"/x/{name}.jpg", "why"))
        written = [json.dumps({"name": f"/x/{name}.jpg", "reason": "why"}) for name in names]
        assert sorted(set(written)) == sorted(
            line for line in path.read_bytes().decode("utf-8", "replace").split("\n") if line in written
        )
        log = BadSampleLog(path)
        assert log.images() >= len(set(names))
        log(BadSample("/x/a.jpg", "why"))


def test_the_end_of_a_run_says_how_many_images_were_replaced_and_where_they_are_listed(tmp_path: Path) -> None:
    log = BadSampleLog(tmp_path / "bad_samples.jsonl")
    assert log.summary() is None
    log(BadSample("a", "x"))
    assert log.summary() == f"1 image was unreadable and left out: listed with the reasons in {log.path}"
    BadSampleLog(log.path)(BadSample("b", "x"))  # another process
    assert log.summary() == f"2 images were unreadable and left out: listed with the reasons in {log.path}"


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
