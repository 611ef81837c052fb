"""The report of a compression: a table for people, JSON for programs, a picture of quality against size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dinov3.compress.errors import CompressError
from dinov3.pictures.pca import MUTED
from dinov3.system.json_file import JsonError, Maybe, as_form, read_object

FORMAT = "dinov3-compress-report"
_SCORE = {"value": float}
_INTERVAL = {"value": float, "low": float, "high": float}
DRAWN = {  # what a report that stands beside another is asked for
    "method": str,
    "metrics_of": Maybe(str),
    "before": {"bytes": int, "metrics": Maybe({str: _SCORE})},
    "after": {"bytes": int, "metrics": Maybe({"AUROC": Maybe(_INTERVAL), "Acc": Maybe(_INTERVAL)})},
    "cosines": [{"where": str, "mean": float, "least": float}],
}
COLORS = ("#c2410c", "#2563eb", "#15803d", "#7c3aed", "#b45309", "#0e7490", "#be123c", "#4d7c0f")
PROBED = "a linear layer"  # what was scored in reports that do not say it
MARKERS = "o^Dv"  # when colours come again


def table(report: Mapping[str, Any]) -> str:
    """Before, after and their ratio, a line each; then what is left of every block, and how far its tokens moved."""
    before, after = report["before"], report["after"]
    lines = [f"{report['method']}: {report['weights']} -> {report['out']}", ""]
    for key, text, form in (
        ("weights", "weights", ",d"),
        ("flops", f"FLOPs of one {report['size']} px image", ",d"),
        ("bytes", "bytes of the file", ",d"),
        ("milliseconds", f"ms a batch of {report['batch']} ({report['threads']} threads)", ".1f"),
    ):
        if before[key] and after[key]:
            ratio = after[key] / before[key]
            lines.append(f"{text:40s} {before[key]:>15{form}} {after[key]:>15{form}}   {ratio:.3f}")
    if "metrics_of" in report:
        lines += ["", f"of {report['metrics_of']}"]
    for name, row in before.get("metrics", {}).items():
        ours = after["metrics"][name]
        spread = f"   [{ours['low']:.4f}, {ours['high']:.4f}]" if "low" in ours else ""
        lines.append(f"{name:40s} {row['value']:>15.4f} {ours['value']:>15.4f}{spread}")
    lines += ["", f"{'cosine with the uncompressed tokens':40s} {'mean':>15s} {'least':>15s}"]
    for row in report["cosines"]:
        lines.append(f"{row['where']:40s} {row['mean']:>15.5f} {row['least']:>15.5f}")
    lines += ["", *report["shape"], *report["notes"]]
    return "\n".join(lines)


def compared(reports: Sequence[Mapping[str, Any]], left_out: Sequence[str] = ()) -> str:
    """Several reports of one backbone, a line each: shares of the uncompressed model, what is lost, cosine of the output."""
    scores = [
        name for name in ("AUROC", "Acc") if all(name in report["after"].get("metrics", {}) for report in reports)
    ]
    head = f"{'':32s} {'weights':>8s} {'FLOPs':>8s} {'bytes':>8s} {'time':>8s} {'cosine':>8s}"
    lines = [head + "".join(f" {name:>8s} {'lost':>8s}" for name in scores)]
    for report in reports:
        before, after = report["before"], report["after"]
        shares = (after[key] / before[key] for key in ("weights", "flops", "bytes", "milliseconds"))
        cells = [*shares, report["cosines"][-1]["mean"]]
        for name in scores:
            value = after["metrics"][name]["value"]
            cells += [value, before["metrics"][name]["value"] - value]
        lines.append(f"{report['method']:32s} " + " ".join(f"{cell:8.4f}" for cell in cells))
    first = reports[0]
    told = f"shares of the uncompressed model; time of a batch of {first['batch']} on {first['threads']} threads"
    return "\n".join([*lines, "", told + (f"; metrics of {first['metrics_of']}" if scores else ""), *left_out])


def read_report(path: Path) -> dict[str, Any]:
    """A JSON report of an earlier run. CompressError for another file."""
    try:
        content = read_object(path, {"format": str})
        if content["format"] != FORMAT:
            raise CompressError(f"{path}: not a report of dinov3 compress")
        as_form(content, DRAWN)
        if not content["cosines"]:
            raise JsonError("no cosines")
    except (OSError, JsonError) as error:
        raise CompressError(f"{path}: not a report: {error}") from error
    return content


def draw(reports: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Quality against size, one dot a report beside the uncompressed model of the first; and cosines by block."""
    scored = {report.get("metrics_of", PROBED) for report in reports}  # two kinds of scores have no common axis
    both = ("AUROC", "Acc") if len(scored) == 1 else ()
    metric = next((m for m in both if all((r["after"].get("metrics") or {}).get(m) for r in reports)), None)
    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
    _draw_sizes(left, reports, metric)
    for index, report in enumerate(reports):
        rows = [row for row in report["cosines"] if row["where"].startswith("block")]
        style: dict[str, Any] = {"marker": _marker(index), "ms": 3, "lw": 1.2, "color": _color(index)}
        right.plot(range(len(rows)), [row["mean"] for row in rows], **style)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="block", title="cosine with the uncompressed tokens, mean")
    for axis in (left, right):
        axis.title.set_size(10)
        axis.tick_params(labelsize=8, colors=MUTED)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.legend(loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.05 * (1 + len(reports) // 3) + 0.02, 1, 1))
    figure.savefig(out, dpi=110, format="png")


def _draw_sizes(axis: Any, reports: Sequence[Mapping[str, Any]], metric: str | None) -> None:
    before = reports[0]["before"]
    if metric is not None:
        whole = before["metrics"][metric]["value"]
        axis.axhline(whole, color=MUTED, lw=0.8, ls="--")
        axis.plot(before["bytes"] / 1e6, whole, "s", color=MUTED, label="uncompressed")
    for index, report in enumerate(reports):
        size, y = report["after"]["bytes"] / 1e6, _quality(report, metric)
        label = f"{report['method']}: {size:.3g} MB"
        if metric is None:
            axis.plot(size, y, _marker(index), color=_color(index), label=label)
            continue
        row = report["after"]["metrics"][metric]
        bars = [[max(0.0, y - row["low"])], [max(0.0, row["high"] - y)]]  # of a file that somebody edited
        axis.errorbar(size, y, bars, fmt=_marker(index), color=_color(index), capsize=3, lw=1, label=label)
    axis.set_xlim(left=0)
    axis.set(
        xlabel="file, MB",
        title=f"{metric} of {reports[0].get('metrics_of', PROBED)}, 95 % interval" if metric else "mean output cosine",
    )


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _marker(index: int) -> str:
    return MARKERS[index // len(COLORS) % len(MARKERS)]


def _quality(report: Mapping[str, Any], metric: str | None) -> float:
    if metric is None:
        return float(report["cosines"][-1]["mean"])
    return float(report["after"]["metrics"][metric]["value"])
