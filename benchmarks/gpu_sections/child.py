"""One section in this process: ``python -m benchmarks.gpu_sections.child LETTER SETTINGS``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_sections.plan import SECTIONS, Settings
from benchmarks.gpu_sections.report import Report, SectionReport, full_environment


def run_section(letter: str, settings: Settings) -> None:
    """Go through the items of a section and write them into the report at ``settings.out``."""
    section = next(s for s in SECTIONS if s.letter == letter)
    report = Report(Path(settings.out), full_environment(settings.device))
    module = import_module(f"benchmarks.gpu_sections.{section.module}")
    module.run(SectionReport(report, letter, settings.device, settings.seconds), settings)


def main() -> None:
    run_section(sys.argv[1], Settings.from_json(sys.argv[2]))


if __name__ == "__main__":
    main()
