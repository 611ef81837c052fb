"""Section B: the numbers of the official code, met on this device in fp32."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import ROOT, NotHere, SectionReport, device_of
from tests.golden.__main__ import run_case

TINY = ("B01_head_n1", "B04_koleo")
LEAST_SECONDS = 3.0  # a case takes less


def run(report: SectionReport, settings: Settings) -> None:
    folder, device = ROOT / settings.golden, device_of(settings.device)
    names = sorted(p.stem for p in folder.glob("*.json"))
    with report.item("cases") as row:
        row |= {"folder": settings.golden, "cases": len(names), "passed": bool(names)}
    for name in names if not settings.tiny else TINY:
        with report.item(name) as row:
            if report.left() < LEAST_SECONDS:
                raise NotHere("no time left in this section")
            status, detail = run_case(Path(folder / name), device)
            if status == "skip":
                raise NotHere(detail)
            row |= {"detail": detail[:500], "passed": status == "ok"}
