"""The parser of every command: what is wrong with its words in two lines, whatever it can be given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from dinov3.system.errors import EXIT_USAGE

MAY_BE_LEFT_OUT = ("*", "?")  # nargs


class Parser(argparse.ArgumentParser):
    """argparse's, with a usage line of what must be given in place of all that can be."""

    def error(self, message: str) -> NoReturn:
        """End the process with 2: a line of usage, and what is wrong. Parsers of sub-commands do the same."""
        self.exit(EXIT_USAGE, f"{self.shortest()}\n{self.prog}: error: {message}\n")

    def shortest(self) -> str:
        """What a call of it must have, in one line."""
        if self.usage:
            return " ".join(self.format_usage().split())
        words = ["usage:", self.prog, "[--help]"]
        for action in self._actions:
            if action.required and action.nargs not in MAY_BE_LEFT_OUT:
                name = action.metavar if isinstance(action.metavar, str) else action.dest
                words += [action.option_strings[0], name.upper()] if action.option_strings else [name]
        return " ".join([*words, "..."])


def options_of(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The long options that ``argv`` can have: those of ``parser`` and of the sub-commands that it names."""
    found = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen = next((word for word in argv if word in action.choices), None)
            found += options_of(action.choices[chosen], argv) if chosen else []
    return found
