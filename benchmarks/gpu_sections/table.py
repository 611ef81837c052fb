"""The tables of a report, in Markdown: speed beside the official figures, then what was checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def tables(content: Row) -> str:
    """What a report says, ready for a README."""
    records: list[Row] = content["records"]
    parts = [heading(records), speed_table(records), checks_table(records), parts_table(records)]
    parts += [forms_table(records), problems(records)]
    return "\n\n".join(part for part in parts if part)


def heading(records: list[Row]) -> str:
    known = next((r for r in reversed(records) if r.get("card")), None)
    if known is None:
        return "No section has run."
    where = f"{known['card']} ({known['card_gib']} GiB)" if known.get("card_gib") else known["card"]
    return f"Measured on {where}, torch {known['torch']}, cuDNN {known['cudnn']}, commit {known['git']} (source {known['source']})."


def markdown(columns: Iterable[str], rows: list[list[Any]]) -> str:
    lines = [list(columns), ["---"] * len(list(columns)), *rows]
    return "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def speed_table(records: list[Row]) -> str:
    rows = []
    for record in records:
        if record["item"] == "step" and "seconds_per_step" in record:
            rows.append(step_row(record))
        elif record["item"] == "end to end from files" and "images_per_second" in record:
            what = f"the same from JPEG files, {record['workers']} workers"
            ratio = f"{record.get('of_step_rate')} of the step"
            rows.append([what, None, record["images_per_second"], None, None, None, ratio, record.get("target"), None])
    columns = (
        "step",
        "ms",
        "images/s",
        "peak GiB",
        "official ms (H200)",
        "official GiB",
        "ratio",
        "target",
        "compiled again / limit hits",
    )
    return markdown(columns, rows) if rows else ""


def step_row(record: Row) -> list[Any]:
    official, compiled = record.get("official") or {}, record.get("compiled", {})
    reference_ms = official.get("seconds_per_step")
    batch = f" (batch {official['batch']})" if official and official["batch"] != record["batch"] else ""
    keys = "".join(f", {key}" for key in record.get("keys", ()))
    return [
        f"{record['arch']}, batch {record['batch']}, drop path {record['drop_path']}{keys}",
        round(record["seconds_per_step"] * 1e3, 1),
        record["images_per_second"],
        record["peak_gib"],
        None if reference_ms is None else f"{reference_ms * 1e3:.1f}{batch}",
        official.get("peak_gib"),
        f"x{record['ratio']}" if "ratio" in record else None,
        f"x{record['target']}" if record.get("target") else None,
        f"{compiled.get('recompiles')} / {compiled.get('limit_hits')}",
    ]


def checks_table(records: list[Row]) -> str:
    """How the items of each section ended."""
    rows = []
    for letter in sorted({r["section"] for r in records}):
        ends = [r["status"] for r in records if r["section"] == letter]
        counts = [f"{ends.count(status)} {status}" for status in dict.fromkeys(ends)]
        rows.append(
            [letter, ", ".join(counts), round(sum(r.get("seconds", 0) for r in records if r["section"] == letter), 1)]
        )
    return markdown(("section", "items", "seconds"), rows) if rows else ""


def parts_table(records: list[Row]) -> str:
    rows = [[r["item"], r["ms"], r["host_ms"]] for r in records if r["section"] == "H" and "ms" in r]
    return markdown(("part of a ViT-B step", "ms", "ms of the host"), rows) if rows else ""


def forms_table(records: list[Row]) -> str:
    """What section N found: each form's milliseconds, the faster of two turns."""
    rows = []
    for record in records:
        names = [key.removesuffix("_ms_1") for key in record if key.endswith("_ms_1")]
        cells = [f"{name} {min(record[f'{name}_ms_1'], record[f'{name}_ms_2'])}" for name in names]
        if names:
            rows.append([record["item"], *cells, f"{record['relative_difference']:.1e}"])
    return markdown(("in another form", "ms now", "ms", "differs by"), rows) if rows else ""


def problems(records: list[Row]) -> str:
    """One line for every item that did not end well."""
    lines = []
    for r in records:
        if r["status"] in ("fail", "error", "limit") or (r["status"] == "skipped" and r["item"] == "section"):
            shown = r.get("error") or {
                k: r[k] for k in ("detail", "errors", "ratio", "target", "said", "relative_difference") if k in r
            }
            lines.append(f"- {r['section']} {r['item']}: {r['status']}: {str(shown)[:300]}")
    return "\n".join(lines)
