"""ImageNet-1k as DINOv3's configs name it: ``ImageNet:split=TRAIN:root=PATH:extra=PATH``."""

from __future__ import annotations

import logging

from dinov3.data.sources.imagefolder import ImageFolder
from dinov3.data.sources.options import Options

NAME = "ImageNet"
SPLITS = ("TRAIN", "VAL", "TEST")

log = logging.getLogger(__name__)


def open_source(options: Options) -> ImageFolder:
    """The split's folder under ``root``: ``train``, ``val`` or ``test``, in small or capital letters."""
    split = options.choice("split", SPLITS, "TRAIN")
    root = options.path("root")
    if options.string("extra", ""):
        log.info("%s: extra= is not needed: there are no metadata files", options.text)
    options.finish()
    folders = [root / split.lower(), root / split]
    return ImageFolder(next((folder for folder in folders if folder.is_dir()), folders[0]))
