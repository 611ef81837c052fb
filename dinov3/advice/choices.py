"""The rules applied: choices with their reasons, as words of a command line and as a commented YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from dinov3.advice.facts import Case
from dinov3.advice.finetune_rules import FINETUNE_RULES
from dinov3.advice.rules import RULES, Rule

FINETUNE = "finetune"  # the goal whose YAML is not one of pretraining


class Choice(NamedTuple):
    """One rule's part of the config."""

    subject: str
    rule: Rule
    keys: dict[str, Any]


def choices_for(case: Case) -> list[Choice]:
    """Of each subject the first rule that fits; a key that a later subject sets is the later one's."""
    found = []
    for subject, rules in (FINETUNE_RULES if case.goal == FINETUNE else RULES).items():
        rule = next((rule for rule in rules if rule.fits(case)), None)
        if rule is not None:
            found.append(Choice(subject, rule, dict(rule.chosen(case))))
    later: set[str] = set()
    for choice in reversed(found):
        for key in later & choice.keys.keys():
            del choice.keys[key]
        later |= choice.keys.keys()
    return [choice for choice in found if choice.keys]


def words_of(choices: Sequence[Choice]) -> list[str]:
    """As ``key=value``."""
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for c in choices
        for key, value in c.keys.items()
    ]


def yaml_of(choices: Sequence[Choice], head: Sequence[str]) -> str:
    """A YAML in which every group of keys has its reason above it; ``head``: comments on top."""
    blocks: dict[str, list[tuple[Choice, dict[str, Any]]]] = {}
    for choice in choices:
        parts: dict[str, dict[str, Any]] = {}
        for key, value in choice.keys.items():
            block, _, rest = key.partition(".")
            parts.setdefault(block, {})[rest] = value
        for block, part in parts.items():
            blocks.setdefault(block, []).append((choice, part))
    lines = [f"# {line}".rstrip() for line in head]
    told: set[str] = set()
    for block, groups in blocks.items():
        lines += ["", f"{block}:"]
        nested: set[str] = set()
        for choice, part in groups:
            when = "" if choice.rule.when == "always" else f"{choice.rule.when}: "
            reason = f"{when}as above" if choice.subject in told else f"{choice.subject}. {when}{choice.rule.why}"
            told.add(choice.subject)
            lines += [f"  # {line}" for line in wrapped(reason)]
            for key, value in part.items():
                inner, _, name = key.rpartition(".")
                if inner and inner not in nested:
                    nested.add(inner)
                    lines.append(f"  {inner}:")
                lines.append(f"{'    ' if inner else '  '}{name}: {_scalar(value)}")
    return "\n".join(lines) + "\n"


def wrapped(text: str, width: int = 112) -> list[str]:
    """At spaces, in lines of at most ``width`` letters where a word allows it."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("...\n").removesuffix("\n")
