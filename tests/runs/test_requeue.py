from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.runs.requeue import requeue


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stub on PATH that writes down how it was called."""
    stub, calls = tmp_path / "scontrol", tmp_path / "calls"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    return stub


def test_a_slurm_job_goes_back_into_the_queue(scontrol: Path) -> None:
    assert requeue() == "job 4242 is back in the queue"
    assert (scontrol.parent / "calls").read_text() == "requeue 4242\n"


@pytest.mark.parametrize(("name", "value"), [("SLURM_JOB_ID", ""), ("SUBMITIT_EXECUTOR", "local")])
def test_what_is_no_job_of_slurm_is_left_alone(
    scontrol: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert requeue() == "the same command continues"
    assert not (scontrol.parent / "calls").exists()


def test_a_refusal_is_told_with_its_reason(scontrol: Path, caplog: pytest.LogCaptureFixture) -> None:
    scontrol.write_text("#!/bin/sh\necho Requested operation is presently disabled >&2; exit 1\n")
    assert requeue() == "the same command continues"
    assert caplog.messages == [
        "scontrol requeue 4242: Requested operation is presently disabled: submit the run again, it continues"
    ]


def test_no_scontrol_is_told(scontrol: Path, caplog: pytest.LogCaptureFixture) -> None:
    scontrol.unlink()
    assert requeue() == "the same command continues"
    assert "scontrol" in caplog.text
