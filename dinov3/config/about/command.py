"""``dinov3 config``: what a key means; all keys with their defaults."""

from __future__ import annotations

import argparse

from dinov3.config.about.default_yaml import default_yaml
from dinov3.config.about.difference import difference
from dinov3.config.about.explain import explain, search
from dinov3.config.about.tasks import PRETRAIN, SCHEMAS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 config``."""
    actions = parser.add_subparsers(required=True, dest="action", metavar="action")
    of_key = actions.add_parser("explain", help="meaning, unit, default and readers of a key or block")
    of_key.add_argument("key", help="for example optim.lr, or a block: optim")
    of_words = actions.add_parser("search", help="the keys that speak of a word")
    of_words.add_argument("words", nargs="+", metavar="WORD", help="for example: mask, or: learning rate")
    for asking in (of_key, of_words):
        asking.add_argument(
            "--task",
            choices=SCHEMAS,
            default=PRETRAIN,
            help=f"whose keys: classify is `dinov3 finetune`'s (default {PRETRAIN})",
        )
    of_two = actions.add_parser(
        "diff",
        help="the keys in which two configs differ: YAMLs, recipes or run folders",
        description="The keys in which two configs differ: YAMLs, recipes or run folders, of these the config in force, "
        "with what was changed when the run went on.",
    )
    of_two.add_argument("a", metavar="A", help="for example demo_cpu")
    of_two.add_argument("b", metavar="B", help="for example runs/photos")
    actions.add_parser("default", help="print the default config with comments")


def execute(args: argparse.Namespace) -> int:
    """Run the command. Raises ConfigError for a key that does not exist."""
    answers = {
        "explain": lambda: explain(args.key, args.task),
        "search": lambda: search(args.words, args.task),
        "diff": lambda: difference(args.a, args.b),
        "default": default_yaml,
    }
    print(answers[args.action](), end="")
    return 0
