"""Times as SLURM writes and reads them."""

from __future__ import annotations

import re

# The six forms of `man sbatch`. Only the first number may be larger than its unit: 90:00 is an hour and a half.
FORMS = (
    re.compile(r"(?P<minutes>\d+)(?::(?P<seconds>[0-5]?\d))?", re.ASCII),
    re.compile(r"(?P<hours>\d+):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]?\d)", re.ASCII),
    re.compile(
        r"(?P<days>\d+)-(?P<hours>[01]?\d|2[0-3])(?::(?P<minutes>[0-5]?\d)(?::(?P<seconds>[0-5]?\d))?)?", re.ASCII
    ),
)
SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
FORMATS = (
    "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or days-hours:minutes:seconds"
)


def seconds(text: str) -> int | None:
    """What ``text`` stands for; None when it is not a time (``UNLIMITED`` among others)."""
    match = next((found for form in FORMS if (found := form.fullmatch(text))), None)
    if match is None:
        return None
    return sum(SECONDS[unit] * int(count or 0) for unit, count in match.groupdict().items())


def in_words(total: int) -> str:
    """``1 day 12 h``: so that whoever wrote 30:00 and meant hours sees it."""
    parts = []
    for unit, name in (("days", "day"), ("hours", "h"), ("minutes", "min"), ("seconds", "s")):
        count, total = divmod(total, SECONDS[unit])
        if count:
            parts.append(f"{count} {name}{'s' if unit == 'days' and count > 1 else ''}")
    return " ".join(parts) or "0 s"
