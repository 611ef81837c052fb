"""The rooms of the program, from the imports: rooms.json (who imports whom) and rooms.svg. Run by ``make docs-pictures``."""

from __future__ import annotations

import json
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from dinov3.cli import COMMANDS  # noqa: E402
from tests.test_architecture import ALLOWED, SOURCES, imported_rooms, parsed, room_of  # noqa: E402

Graph = dict[str, list[str]]
WIDTH, HEIGHT = 1.5, 0.56  # of a box; rows are 1 apart
COLOURS = {  # what a room is for: each has the colour of the first group it is in
    "#dbe7f3": ("system", "contracts", "config", "distributed"),
    "#e3efda": ("models", "losses", "data", "runs", "weights", "features", "pictures"),
    "#fdf0cf": ("engine", "teachers", "objectives", "train", "finetune", "segment", "detect", "depth", "launch"),
}
OTHER = "#f6e1dc"


def graph() -> Graph:
    """Every room with the rooms it imports. The command line knows its commands by the names of their modules."""
    found: dict[str, set[str]] = {room: set() for room in ALLOWED}
    for path in SOURCES:
        room = room_of(path)
        if room != "__init__":
            found[room] |= imported_rooms(parsed(path)) - {room}
    found["cli"] |= {module.split(".")[1] for module, _, _ in COMMANDS.values()}
    return {room: sorted(others) for room, others in sorted(found.items())}


@cache
def level(room: str) -> int:
    """How many rooms lie below it at most, one on the other, in the order of ALLOWED."""
    return 1 + max((level(other) for other in ALLOWED[room]), default=-1)


def without_long_ways(rooms: Graph) -> Graph:
    """Only the imports that no chain of others implies."""

    @cache
    def below(room: str) -> frozenset[str]:
        return frozenset(rooms[room]).union(*(below(other) for other in rooms[room]))

    return {a: [b for b in direct if not any(b in below(other) for other in direct)] for a, direct in rooms.items()}


def lines_of(room: str) -> str:
    """Its lines, rounded so that the picture stays true for a while."""
    lines = sum(path.read_text().count("\n") for path in SOURCES if room_of(path) == room)
    return f"{max(round(lines, -2), 100):,} lines"


def chains(arrows: Graph) -> list[list[tuple[str, int]]]:
    """Every arrow as the points (name, level) it runs through; between the rows of its ends it has a place of its own."""
    return [
        [(a, level(a)), *((f"{a} {b} {at}", at) for at in range(level(a) - 1, level(b), -1)), (b, level(b))]
        for a, others in arrows.items()
        for b in others
    ]


def places(ways: list[list[tuple[str, int]]], rooms: Graph) -> dict[str, float]:
    """x of every room and every bend: each near the mean of its neighbours, in rows without overlap."""
    rows: dict[int, list[str]] = {}
    for name, at in sorted({(room, level(room)) for room in rooms} | {point for way in ways for point in way}):
        rows.setdefault(at, []).append(name)
    neighbours: dict[str, set[str]] = {name: set() for row in rows.values() for name in row}
    for way in ways:
        for (a, _), (b, _) in pairwise(way):
            neighbours[a].add(b)
            neighbours[b].add(a)
    x = {name: i - (len(row) - 1) / 2 for row in rows.values() for i, name in enumerate(row)}
    for _ in range(100):
        for row in rows.values():
            wanted = {n: sum(x[m] for m in neighbours[n]) / len(neighbours[n]) if neighbours[n] else x[n] for n in row}
            row.sort(key=lambda name: (wanted[name], name))
            widths = [WIDTH + 0.2 if name in rooms else 0.4 for name in row]
            at = [wanted[row[0]]]
            for i in range(1, len(row)):
                at.append(max(wanted[row[i]], at[-1] + (widths[i - 1] + widths[i]) / 2))
            shift = sum(wanted.values()) / len(row) - sum(at) / len(row)
            x |= {name: value + shift for name, value in zip(row, at, strict=True)}
    return x


def box(axes: Axes, room: str, x: float, y: float) -> None:
    colour = next((colour for colour, names in COLOURS.items() if room in names), OTHER)
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    axes.add_patch(
        FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.08", fc=colour, ec="#555555", lw=0.8)
    )
    axes.text(x, y + 0.1, room, ha="center", va="center", fontsize=12, weight="bold")
    axes.text(x, y - 0.14, lines_of(room), ha="center", va="center", fontsize=9.5, color="#333333")


def draw(rooms: Graph) -> Figure:
    """Boxes in rows, the lowest room below; arrows point to what is imported."""
    ways = chains(without_long_ways(rooms))
    x = places(ways, rooms)
    figure = Figure(figsize=(10, 10.6), facecolor="white")
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    for way in ways:
        ends = [(x[name], at + side * HEIGHT / 2) for name, at in way for side in (1, -1)]
        points = ends[1:-1]  # straight down past the boxes of a row
        axes.plot(*zip(*points[:-1], strict=True), color="#888888", lw=1.1, solid_joinstyle="round")
        axes.annotate(
            "",
            xy=points[-1],
            xytext=points[-2],
            arrowprops={"arrowstyle": "-|>", "color": "#888888", "lw": 1.1, "shrinkA": 0, "shrinkB": 0},
        )
    for room in rooms:
        box(axes, room, x[room], level(room))
    axes.set_xlim(min(x.values()) - WIDTH * 0.6, max(x.values()) + WIDTH * 0.6)
    axes.set_ylim(-0.5, max(level(room) for room in rooms) + 0.5)
    return figure


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "rooms"  # the same imports give the same file
    rooms = graph()
    (DOCS / "rooms.json").write_text(json.dumps(rooms, indent=1) + "\n")
    draw(rooms).savefig(DOCS / "rooms.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
