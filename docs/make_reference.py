"""Writes the pages that are made from the program: keys, commands, choices, glossary. `make docs` runs it, a test compares."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))
os.environ["COLUMNS"] = "110"  # of the help texts

from dinov3.advice.finetune_rules import FINETUNE_RULES  # noqa: E402
from dinov3.advice.rules import RULES, Rule  # noqa: E402
from dinov3.cli import GROUPS, build_parser  # noqa: E402
from dinov3.config.convert import as_text, describe  # noqa: E402
from dinov3.config.dump import comment  # noqa: E402
from dinov3.config.schema import Config  # noqa: E402
from dinov3.config.spec import leaves  # noqa: E402
from dinov3.pictures.figures import ENDINGS, FIGURES  # noqa: E402

MADE = "*Made from the program by `make docs`; a test holds them equal.*\n"


def cell(text: str) -> str:
    """As a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def keys() -> str:
    """Every key of the YAML."""
    lines = ["# Keys", "", MADE]
    block = ""
    for leaf in leaves(Config, Config()):
        name = leaf.key.partition(".")[0]
        if name != block:
            block = name
            lines += [f"\n## {block}\n", "| key | type | default | meaning |", "|---|---|---|---|"]
        default = as_text(leaf.default) if leaf.default != "" else "''"
        row = (f"`{leaf.key}`", cell(describe(leaf.hint)), f"`{cell(default)}`", cell(comment(leaf.hint, leaf.spec)))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A command and all its actions."""
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def commands() -> str:
    """The help of every command."""
    whole = build_parser(whole=True)
    (choices,) = (a.choices for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    lines = ["# Commands", "", MADE]
    for group, names in GROUPS.items():
        lines += [
            f"\n## To {group}\n" if group not in ("the shell", "look at runs") else f"\n## {group.capitalize()}\n"
        ]
        for name in names:
            for title, parser in parsers(choices[name]):
                lines += [f"### {title}\n", "```text", parser.format_help().rstrip(), "```\n"]
    return "\n".join(lines) + "\n"


def choices() -> str:
    """The rules of ``dinov3 init``."""
    lines = [
        "# What is chosen, and why",
        "",
        "`dinov3 init FOLDER` writes these choices down, `dinov3 train FOLDER` starts with them. Of each subject the first row that fits is",
        "taken; a later subject wins over an earlier one. 256 images are looked at. An estimate is called one: it was not measured.",
        "",
        MADE,
    ]
    lines += tables_of(RULES)
    lines += ["\n# A classifier: `--goal finetune`", *tables_of(FINETUNE_RULES)]
    return "\n".join(lines) + "\n"


def tables_of(table: Mapping[str, Sequence[Rule]]) -> list[str]:
    """A table a subject."""
    lines: list[str] = []
    for subject, rules in table.items():
        lines += [f"\n## {subject[0].upper()}{subject[1:]}\n", "| when | what | why |", "|---|---|---|"]
        for rule in rules:
            what = rule.formula or ", ".join(
                f"`{key}: {as_text(value)}`" for key, value in ({} if callable(rule.keys) else rule.keys).items()
            )
            lines.append(f"| {cell(rule.when)} | {cell(what) or 'see the YAML'} | {cell(rule.why)} |")
    return lines


def glossary() -> str:
    """Every figure with its unit."""
    lines = [
        "# Glossary of figures",
        "",
        "What `metrics.jsonl` and `evaluation.jsonl` hold. Shares are between 0 and 1 in the files, per cent in pages.",
        "",
    ]
    lines += [MADE, "| figure | meaning | unit in pages |", "|---|---|---|"]
    lines += [f"| `{key}` | {cell(f.meaning)} | {f.unit} |" for key, f in FIGURES.items()]
    lines += [f"| `*{ending}` | {cell(meaning)} | |" for ending, meaning in ENDINGS.items()]
    return "\n".join(lines) + "\n"


PAGES = {"keys.md": keys, "commands.md": commands, "choices.md": choices, "glossary.md": glossary}


def main() -> None:
    """Write all of them."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
