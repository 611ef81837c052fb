"""The two YAMLs that are made from the schema: ``make yaml`` writes them anew, a test holds them equal."""

from __future__ import annotations

import sys
from pathlib import Path

from dinov3.config.dump import to_yaml
from dinov3.config.schema import Config
from dinov3.system.files import write_whole

DEFAULT, FULL = "ssl_default_config.yaml", "vitb_full_config.yaml"
HEADER = """\
# python -m dinov3.train --config-file configs/ssl_default_config.yaml --output-dir runs/default train.dataset_path=PHOTOS
#
# Every key with its default. A training YAML needs only the keys that differ.
# Made by `make yaml`; a test holds them equal.

"""


def default_yaml() -> str:
    """The text of configs/ssl_default_config.yaml."""
    return HEADER + to_yaml(Config(), comments=True)


def full_yaml(path: Path) -> str:
    """A YAML that writes out every key, with the values it has now and the comments above its first key."""
    from dinov3.config.load import load_config

    head = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith(("#", "\n"))]
    first = next(
        i for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()) if line and not line.startswith("#")
    )
    return "".join(head[:first]) + to_yaml(load_config(path))


def main(folder: Path) -> None:
    """Write both anew in ``folder``."""
    write_whole(folder / DEFAULT, default_yaml())
    write_whole(folder / FULL, full_yaml(folder / FULL))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
