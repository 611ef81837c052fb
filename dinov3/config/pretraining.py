"""The schema of a pretraining run: DINOv3's keys, and ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from dinov3.config.arguments import COMMAND_LINE
from dinov3.config.checks import CHECKS
from dinov3.config.checks_continued import KEEP_CHECKS
from dinov3.config.derived import crop_sizes
from dinov3.config.gram_source import resolve_gram_source
from dinov3.config.ignored import IGNORED
from dinov3.config.kind import Origin, Schema
from dinov3.config.official import as_published
from dinov3.config.presets import fill_in_preset
from dinov3.config.references import flat
from dinov3.config.schema import Config
from dinov3.config.unbuilt import refuse_unbuilt


def _settled(cfg: Config, origin: Origin) -> Iterator[str]:
    yield from as_published(cfg, origin)
    refuse_unbuilt(dict(flat(asdict(cfg))), dict(flat(asdict(Config()))))
    resolve_gram_source(cfg.gram)


def _what_no_patch_sees(cfg: Config, origin: Origin) -> Iterator[str]:
    """One warning for local crops in a list of resolutions that are not whole patches: accepted, as upstream does."""
    patch = cfg.student.patch_size
    for size in sorted({sizes.local_size for sizes in crop_sizes(cfg) if sizes.local_size % patch}):
        source = origin.get("crops.local_crops_size", COMMAND_LINE)
        seen = size // patch * patch
        yield (
            f"{source}: crops.local_crops_size: {size} is not a multiple of student.patch_size {patch}: "
            f"the last {size - seen} px are not seen; {seen} is as good"
        )


PRETRAIN = Schema(
    root=Config,
    checks=(*CHECKS, *KEEP_CHECKS),
    ignored=IGNORED,
    fill=fill_in_preset,
    settle=_settled,
    remarks=_what_no_patch_sees,
)
