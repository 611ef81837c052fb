"""The images a run trains on, looked at before anything is built or written."""

from __future__ import annotations

import contextlib

import numpy as np

from dinov3.config.derived import images_per_process
from dinov3.config.schema import Config
from dinov3.data.bad_samples import BadSample, BadSampleLog
from dinov3.data.decode import Reading, fit_channels, read_image
from dinov3.data.errors import BadImage
from dinov3.data.sources import DataError, Mixture, Source, open_dataset, parse_dataset
from dinov3.data.sources.mixture import title
from dinov3.data.sources.source import PartlyDamaged
from dinov3.data.storage.labels import every_label, names_in, no_such_classes, renumbered
from dinov3.distributed import context
from dinov3.eval.online.dense import check_dense
from dinov3.eval.online.scene import spread


def checked_source(cfg: Config, world: int, processes: str = "") -> Source:
    """The dataset, opened before anything is built or written; DataError when it cannot fill one batch.

    ``processes``: what the ``world`` of them are, and who says so, where this is not the command that trains.

    So are the data sets of the k-NN evaluation, which must have labels, and of the dense ones, which must have truths.
    """
    check_labelled(cfg)
    check_dense(cfg)
    source = open_dataset(cfg.train.dataset_path)
    each = images_per_process(cfg)
    batch = each * world
    lower = "train.batch_size_per_gpu (or train.gradient_accumulation_steps)"
    if cfg.multidistillation.enabled:
        lower = "multidistillation.global_batch_size"
    if len(source) < batch:
        made = "" if world == 1 else f" ({processes or f'{world} processes'} x {each} images)"
        raise DataError(
            f"{title(cfg.train.dataset_path)}: {len(source)} images, fewer than one batch of {batch}{made}: "
            f"lower {lower}{', take fewer GPUs' if processes else ''} or add images"
        )
    check_channels(cfg, source)
    return source


def check_labelled(cfg: Config) -> None:
    """DataError when a data set of the k-NN evaluation lacks labels, or its test folders are not among its training ones."""
    known: list[str] | None = None
    knn = cfg.evaluation.knn
    for text, limit in ((knn.train, knn.max_train), (knn.test, knn.max_test)):
        if text is None:
            continue
        labelled = parse_dataset(text)
        every_label(labelled, text, "k-NN needs class subfolders or labels", spread(len(labelled), limit))
        names = names_in(labelled)
        if known and names and (new := renumbered(np.arange(len(names)), names, known).unknown):
            raise no_such_classes(text, new)
        known = names


def check_channels(cfg: Config, source: Source) -> None:
    """Look at the first image that can be read. DataError when its channels do not fit ``student.in_chans``."""
    if isinstance(source, Mixture):
        for part in source.parts:
            check_channels(cfg, part)
        return
    for index in range(min(len(source), 10)):
        with contextlib.suppress(BadImage, OSError):  # the loader counts and records those
            fit_channels(read_image(source, index, Reading.from_config(cfg)), cfg.student.in_chans)
            return


def record_damage(source: Source, bad_samples: BadSampleLog) -> None:
    """Name the files that are used only up to their damage."""
    if isinstance(source, PartlyDamaged) and context.is_main():
        for name, reason in source.damaged.items():
            bad_samples(BadSample(name, reason))
