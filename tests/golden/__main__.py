"""Run golden cases against the project's public classes: ``python -m tests.golden DIR [--cases GLOB] [--device cuda] [--fused BACKEND]``."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

import torch

from tests.golden.case import Case, Skip
from tests.golden.fused import every_fused_piece
from tests.golden.on_device import DrawnOnCpu, exact_products
from tests.golden.registry import runner_for

CPU = torch.device("cpu")


def run_case(path: Path, device: torch.device = CPU) -> tuple[str, str]:
    """("ok" | "FAIL" | "skip", detail) of one case, its tensors and models on ``device``."""
    case = Case(path, device)
    try:
        with exact_products(), DrawnOnCpu():
            runner_for(case)(case)
    except Skip as reason:
        return "skip", str(reason)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        traceback.print_exc()
        return "FAIL", f"{type(error).__name__}: {error}"
    if case.failures:
        return "FAIL", f"{len(case.failures)} of {case.checked} checks: " + "; ".join(case.failures[:3])
    if not case.checked:
        return "FAIL", "nothing was checked"
    return "ok", f"{case.checked} checks"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of golden cases (NAME.json + NAME.npz)")
    parser.add_argument("--cases", default="*", help="only cases whose name matches this glob")
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="cuda: tolerances are three times as wide"
    )
    parser.add_argument(
        "--fused", metavar="BACKEND", help="with every fused piece on, compiled by inductor or aot_eager"
    )
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    device = torch.device("cuda", 0) if args.device == "cuda" else CPU  # as training names it
    names = sorted(p.stem for p in args.folder.glob("*.json") if fnmatch.fnmatch(p.stem, args.cases))
    if not names:
        parser.error(f"no case matches {args.cases!r} in {args.folder}")
    torch.set_num_threads(1)  # the reference was made with one thread
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for name in names:
        with every_fused_piece(args.fused) if args.fused else nullcontext():
            status, detail = run_case(args.folder / name, device)
        counts[status] += 1
        print(f"{status:4s} {name}: {detail}", flush=True)
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
