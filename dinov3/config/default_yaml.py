"""Every key with its default, meaning and unit: ``python -m dinov3.config.default_yaml > configs/ssl_default_config.yaml``."""

from __future__ import annotations

from dinov3.config.dump import to_yaml
from dinov3.config.schema import Config

HEADER = """\
# python -m dinov3.train --config-file configs/ssl_default_config.yaml --output-dir runs/default train.dataset_path=PHOTOS
#
# Every key with its default. A training YAML needs only the keys that differ.
# Made by `python -m dinov3.config.default_yaml`; a test holds them equal.

"""


def default_yaml() -> str:
    """The text of configs/ssl_default_config.yaml."""
    return HEADER + to_yaml(Config(), comments=True)


if __name__ == "__main__":
    print(default_yaml(), end="")
