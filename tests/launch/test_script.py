"""Generated scripts are run here, under names that users, folders and YAMLs may hold."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dinov3.config.errors import ConfigError
from dinov3.launch.resources import Resources
from dinov3.launch.script import Command, Copy, script

# Stands for srun: writes every word it was given on a line of its own file, ends with NUL.
SRUN = '#!/bin/sh\nprintf "%s\\0" "$@" > "$SEEN"\n'
HOSTILE = '-a\'b "c" $(touch pwned) `touch pwned` ${HOME} %j %t #d ; & | > x é 猫 {0} * ~ !'
NAMES = st.text(st.sampled_from(list("ab'\"$(){}`;&|<>*?#!~%=-_ .é猫")), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)


def run(text: str, folder: Path) -> list[str]:
    """Run a script as the first machine of a job would; the words that srun was given."""
    (folder / "bin").mkdir(exist_ok=True)
    srun = folder / "bin" / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    (folder / "script.sh").write_text(text)
    assert subprocess.run(["bash", "-n", folder / "script.sh"]).returncode == 0
    env = os.environ | {"PATH": f"{srun.parent}:{os.environ['PATH']}", "SEEN": str(folder / "seen")}
    done = subprocess.run(["bash", "script.sh"], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return (folder / "seen").read_text().split("\0")[:-1]


def options(text: str) -> dict[str, str]:
    """What sbatch reads."""
    words = [
        shlex.split(line.removeprefix("#SBATCH "), comments=True) for line in text.splitlines() if "#SBATCH" in line
    ]
    assert all(len(word) == 1 for word in words)
    return {name: value for name, _, value in (word[0].removeprefix("--").partition("=") for word in words)}


def written(folder: Path, name: str, **resources: object) -> tuple[str, Path, tuple[str, ...], Copy]:
    """A script for a run called ``name``, its folder, the arguments of training, the config."""
    config = folder / f"{name[:60]}.yaml"
    config.write_text(f"# {name}\r\ntrain: {{seed: 1}}\nEND_OF_CONFIG\n$(touch pwned) `touch pwned`\n\\ \\n 'x")
    out = folder / name
    copy = Copy.of(config, out)
    argv = ("--config-file", str(copy.path), "--output-dir", str(out), f"a.b={name}")
    text = script(
        Resources(gpus_per_node=2, **resources),  # type: ignore[arg-type]
        out,
        Command(argv),
        [copy],
        notice=59.5,
        cores=4,
        cwd=folder,
        by_hand=True,
    )
    return text, out, argv, copy


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
@example(name=HOSTILE)
@example(name="-rf")
@example(name="a\n".strip())
def test_whatever_a_name_holds_is_a_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        text, out, argv, copy = written(folder, name, partition=name, job_name=name, sbatch={"comment": name})
        found = options(text)
        assert (found["partition"], found["job-name"], found["comment"]) == (name, name, name)
        assert found["chdir"] == str(folder)
        words = run(text, folder)
        assert tuple(words[words.index("--") + 1 :]) == argv
        percent = str(out).replace("%", "%%")
        assert f"--output={percent}/slurm/%j_%t_log.out" in words
        assert copy.path.read_text() == copy.text + "\n"
        assert not list(folder.rglob("pwned"))
        assert [p.name for p in (out / "slurm").iterdir()] == [copy.path.name], "nothing temporary is left"


def test_another_turn_finds_the_config_of_the_first(tmp_path: Path) -> None:
    text, _, _, copy = written(tmp_path, "run")
    run(text, tmp_path)
    before = copy.path.stat()
    run(text, tmp_path)
    assert (copy.path.stat().st_ino, copy.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_script_ends_as_the_training_does_and_outlives_the_signals_of_its_job(tmp_path: Path) -> None:
    text, _, _, _ = written(tmp_path, "run")
    run(text, tmp_path)
    ends = '#!/bin/sh\nkill -TERM "$PPID"; kill -USR2 "$PPID"; kill -HUP "$PPID"; sleep 0.3; exit 85\n'
    (tmp_path / "bin" / "srun").write_text(ends)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "script.sh"], cwd=tmp_path, env=env).returncode == 85


def test_the_step_of_a_turn_has_another_number_than_those_of_the_turns_beside_it(tmp_path: Path) -> None:
    """SLURM numbers the steps of a turn from 0, and may signal the step of that number in the next turn."""
    text, _, _, _ = written(tmp_path, "run")
    run(text, tmp_path)
    counts = '#!/bin/sh\necho "$*" >> "$SEEN"\nfor word; do [ "$word" != true ] || exit 1; done\n'
    (tmp_path / "bin" / "srun").write_text(counts)
    numbers = []
    for turn in range(7):
        seen = tmp_path / f"turn-{turn}"
        env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SEEN": str(seen)}
        env["SLURM_RESTART_COUNT"] = str(turn)
        assert subprocess.run(["bash", "script.sh"], cwd=tmp_path, env=env).returncode == 0, (
            "a step that fails is no end"
        )
        lines = seen.read_text().splitlines()
        assert [line.endswith(" true") for line in lines] == [True] * (len(lines) - 1) + [False]
        numbers.append(len(lines) - 1)
    assert all(len({*numbers[i : i + 3]}) == 3 for i in range(5))


def test_a_folder_that_cannot_be_made_ends_the_script_before_training(tmp_path: Path) -> None:
    text, out, _, _ = written(tmp_path, "run")
    out.write_text("a file")
    (tmp_path / "script.sh").write_text(text)
    done = subprocess.run(["bash", "script.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 74
    assert "srun" not in done.stderr


def test_the_output_of_a_script_goes_where_a_folder_is(tmp_path: Path) -> None:
    text, out, _, _ = written(tmp_path, "100%")
    assert options(text)["output"] == f"{tmp_path}/100%%-%j_job.out"
    (out / "slurm").mkdir(parents=True)
    text, _, _, _ = written(tmp_path, "100%")
    assert options(text)["output"] == f"{tmp_path}/100%%/slurm/%j_job.out"


def test_a_backslash_is_refused_for_no_log_could_be_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--output-dir: .*no job number where there is a backslash"):
        written(tmp_path, "a\\b")


def test_an_option_without_a_value_is_written_without(tmp_path: Path) -> None:
    text, _, _, _ = written(tmp_path, "run", sbatch={"exclusive": "", "nice": "5"})
    lines = text.splitlines()
    assert "#SBATCH --exclusive" in lines
    assert "#SBATCH --nice=5" in lines
    assert "#SBATCH --signal=USR2@60" in lines, "a part of a second is a second more"
