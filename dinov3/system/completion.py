"""``dinov3 completion SHELL``: a script that completes commands, options and choices, for a shell to read once."""

from __future__ import annotations

import argparse
import importlib.util

from dinov3.system.errors import EXIT_DONE, Foreseeable

SHELLS = ("bash", "zsh", "tcsh")
HOW = {
    "bash": "dinov3 completion bash > ~/.local/share/bash-completion/completions/dinov3",
    "zsh": "dinov3 completion zsh > _dinov3, in a folder of $fpath",
    "tcsh": "dinov3 completion tcsh > /etc/profile.d/dinov3.completion.csh",
}


class CompletionMissing(Foreseeable):
    """The package that writes the script is not installed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 completion``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(HOW.values())
    parser.add_argument("shell", choices=SHELLS)


def execute(args: argparse.Namespace) -> int:
    """Print the script; ``args.whole`` makes the parser of all commands. Raises CompletionMissing."""
    if importlib.util.find_spec("shtab") is None:
        raise CompletionMissing("dinov3 completion needs shtab: pip install 'dinov3[completion]'")
    import shtab

    print(shtab.complete(plain(args.whole()), args.shell))
    return EXIT_DONE


def plain(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Choices of arguments as lists: shtab takes every table of choices for one of commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                plain(inner)
        elif isinstance(action.choices, dict):
            action.choices = list(action.choices)
    return parser
