"""Everything that is to be asked of a GPU the first time one is there, in one command of less than nine minutes.

    python benchmarks/gpu_check.py --out gpu_check.json

Sections A to O (``benchmarks/gpu_sections/plan.py``), each in a process of its own with a limit of its own; one for
which too little of the budget is left is skipped. Sections run at the same time where the
card holds them; what is timed is timed alone. The JSON is written anew after every item. On a CPU
(``--device cpu``) the same sections run with tiny sizes, which measure nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.gpu_sections.plan import SECTIONS, Section, Settings, Turn, chosen, estimate, limit, turns
from benchmarks.gpu_sections.report import ROOT, Report
from benchmarks.gpu_sections.table import tables

EXTRA_BESIDE = 10.0  # seconds for every other section of a group
EXTRA_TIMED = 35.0  # and for every section that times something, one after the other
RESERVE = 5.0  # seconds between the time a section is told and its end: for the item in hand


def run(report: Report, sections: list[Section], settings: Settings, budget: float, card_gib: float = 0.0) -> None:
    """Run ``sections`` within ``budget`` seconds, at the same time those that a card of ``card_gib`` holds together."""
    ends = time.monotonic() + budget
    for number, group in enumerate(turns(sections, card_gib)):
        left, fitting = ends - time.monotonic(), []
        for section in group:
            if left >= estimate(section, settings.device):
                fitting.append(section)
                continue
            why = f"{left:.0f} s of the budget are left, it needs about {estimate(section, settings.device):.0f}"
            report.add(section.letter, "section", "skipped", error=why)
            print(f"{section.letter}  skipped: {why}", flush=True)
        if fitting:
            folder = settings.scratch / f"group-{number}"
            run_group(report, fitting, replace(settings, turns=str(folder)), left)


def run_group(report: Report, group: list[Section], settings: Settings, left: float) -> None:
    """The sections of a group at the same time; what is timed is timed when all are ready for it or at their end."""
    folder = Path(settings.turns)
    folder.mkdir(parents=True)
    seconds = limits(group, settings.device, left)
    with ThreadPoolExecutor(len(group)) as pool:
        ends = {s.letter: pool.submit(run_one, report, s, settings, seconds[s.letter]) for s in group}
        while not all(end.done() or Turn(folder, letter).ready().exists() for letter, end in ends.items()):
            time.sleep(0.1)
        (folder / "go").touch()
    for end in ends.values():
        end.result()


def limits(group: list[Section], device: str, left: float) -> dict[str, float]:
    """Seconds after which each section of a group is ended: one that times something may have to wait for all others."""
    alone = {s.letter: limit(s, device, left) + EXTRA_BESIDE * (len(group) - 1) for s in group}
    waiting = max(alone.values()) + EXTRA_TIMED * sum(s.times for s in group)
    return {s.letter: min(left, waiting if s.times and len(group) > 1 else alone[s.letter]) for s in group}


def run_one(report: Report, section: Section, settings: Settings, seconds: float) -> None:
    """One section in a process group of its own, which is ended after ``seconds``; how it ended is recorded."""
    started = time.monotonic()
    told = replace(settings, seconds=max(seconds - RESERVE, 1.0))
    log = settings.scratch / f"{section.letter}.log"
    with log.open("w") as said:
        child = subprocess.Popen(
            command_of(section, told),
            cwd=ROOT,
            env=environment(settings),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(child)
    took = time.monotonic() - started
    if code is None:
        report.add(
            section.letter, "section", "limit", error=f"ended after {took:.0f} s", log=tail(log), seconds=round(took, 1)
        )
    elif code:
        report.add(section.letter, "section", "error", error=f"exit code {code}", log=tail(log), seconds=round(took, 1))
    ends = [r["status"] for r in report.read()["records"] if r["section"] == section.letter]
    counts = ", ".join(f"{ends.count(status)} {status}" for status in dict.fromkeys(ends))
    print(f"{section.letter}  {section.title}: {counts} ({took:.0f} s)", flush=True)


def command_of(section: Section, settings: Settings) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu_sections.child", section.letter, settings.to_json()]


def environment(settings: Settings) -> dict[str, str]:
    """What a section's process is given: the project's folder, one compile cache for all, recompilations into a file."""
    out = Path(settings.out)
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    more = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "TORCH_LOGS": "recompiles",
        "TORCH_LOGS_OUT": str(out.with_name(f"{out.stem}.recompiles.txt")),
    }
    own = {"TORCHINDUCTOR_CACHE_DIR": str(settings.scratch / "inductor")}
    return {**own, **os.environ, **more}


def card_memory() -> float:
    """GiB of the first card; 0 when it cannot be asked, and then every section runs by itself."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout) / 1024
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"one section after the other: the card's memory is not known ({error})", flush=True)
        return 0.0


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End the process and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2500:]


def arguments() -> argparse.ArgumentParser:
    listed = "\n".join(
        f"  {s.letter}  {s.seconds:3.0f} s  {s.title}{' (only when asked for)' if s.optional else ''}" for s in SECTIONS
    )
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"sections:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="the report (default: gpu_check.json)")
    parser.add_argument("--budget", type=float, default=520, help="seconds for everything (default: 520)")
    parser.add_argument("--only", metavar="A,B", help="these sections")
    parser.add_argument("--skip", metavar="A,B", help="all but these sections")
    parser.add_argument("--arch", help="architecture instead of vit_base")
    parser.add_argument(
        "--batch-scale", default="auto", help="factor of the batch sizes; auto: halved until they should fit"
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: tiny sizes")
    parser.add_argument("--golden", default="tests/golden/data", help="folder of golden cases for section B")
    parser.add_argument("--cifar", help="folder of CIFAR-10 as train-*.tar and test-*.tar, for section M")
    parser.add_argument(
        "--cache", type=Path, help="folder where compiled code is kept from one call to the next: your own"
    )
    parser.add_argument(
        "keys", nargs="*", metavar="key=value", help="keys of the config for what the sections of steps train"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """0 when every item is ok or skipped, 1 otherwise; the report is whole either way."""
    parser = arguments()
    args = parser.parse_args(argv)
    try:
        sections = chosen(args.only, args.skip)
        if args.batch_scale != "auto" and not float(args.batch_scale) > 0:
            raise ValueError(f"--batch-scale {args.batch_scale}: auto or a number above 0")
    except ValueError as error:
        parser.error(str(error))
    if wrong := [key for key in args.keys if "=" not in key]:
        parser.error(f"{wrong[0]}: give key=value")
    out: Path = args.out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    report = Report(out)
    report.begin({key: str(value) for key, value in vars(args).items()})
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        settings = Settings(
            device=args.device,
            out=str(out),
            folder=folder,
            arch=args.arch,
            batch_scale=args.batch_scale,
            cache=None if args.cache is None else str(args.cache.absolute()),
            keys=tuple(args.keys),
            golden=args.golden,
            cifar=None if args.cifar is None else str(Path(args.cifar).absolute()),
        )
        run(report, sections, settings, args.budget, 0.0 if args.device == "cpu" else card_memory())
    content = report.read()
    print(f"\n{tables(content)}\n\nreport: {out}", flush=True)
    return int(any(r["status"] in ("fail", "error", "limit") for r in content["records"]))


if __name__ == "__main__":
    sys.exit(main())
