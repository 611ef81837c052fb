"""``python -m dinov3.train``, also under torchrun."""

import sys

from dinov3.system.interrupt import interruptible


def main() -> int:
    """The command, imported where Ctrl-C is answered."""
    from dinov3.train.command import main as train

    return train()


if __name__ == "__main__":
    sys.exit(interruptible(main))
