"""Keys of DINOv3's own training YAMLs that do not mean what they say, and what is done about each.

Its training code passes a ConvNeXt no ``drop_path_rate`` and a ViT no ``ffn_ratio``, and counts masks in patches of
``patch_size`` although a ConvNeXt gives one token for 32 px. docs/official_yamls.md has the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dinov3.config.archs import CONVNEXT_ARCHS, VIT_ARCHS
from dinov3.config.derived import CONVNEXT_STRIDE, largest_global_crop
from dinov3.config.schema import Config

PUBLISHED_PATCH = 16  # px, in every published YAML
# What a ConvNeXt passes over, here as in DINOv3's code.
OF_VITS = (
    "n_storage_tokens",
    "ffn_ratio",
    "ffn_layer",
    "norm_layer",
    "qkv_bias",
    "proj_bias",
    "ffn_bias",
    "layerscale",
    "mask_k_bias",
)
TABLE = "docs/official_yamls.md"


def as_published(cfg: Config, given: Mapping[str, str]) -> Iterator[str]:
    """Set keys of ``cfg`` to what such a run can do, in place; yields what is to be said. ``given``: key -> who gave it."""
    if cfg.student.arch in CONVNEXT_ARCHS:
        yield from _convnext(cfg, given)
    elif ratio := cfg.student.ffn_ratio:
        usual = VIT_ARCHS[cfg.student.arch]["ffn_ratio"]
        if (source := given.get("student.ffn_ratio")) and "student.preset" not in given and ratio != usual:
            yield (
                f"{source}: student.ffn_ratio: {ratio:g} counts here; DINOv3's own training code passes it over and "
                f"takes {usual:g}, that of {cfg.student.arch} ({TABLE})"
            )


def _convnext(cfg: Config, given: Mapping[str, str]) -> Iterator[str]:
    student = cfg.student
    if student.patch_size == PUBLISHED_PATCH:
        student.patch_size = CONVNEXT_STRIDE
        if source := given.get("student.patch_size"):
            crop = largest_global_crop(cfg)
            cells, counted = crop // CONVNEXT_STRIDE, crop // PUBLISHED_PATCH
            yield (
                f"{source}: student.patch_size: {PUBLISHED_PATCH}, but a token of {student.arch} stands for "
                f"{CONVNEXT_STRIDE} px: masks and targets are counted on its own {cells} x {cells} of a {crop} px crop, "
                f"not on {counted} x {counted} ({TABLE})"
            )
    source = given.get("student.drop_path_rate")
    if source is None:
        student.drop_path_rate = 0.0
    elif student.drop_path_rate:
        yield (
            f"{source}: student.drop_path_rate: {student.drop_path_rate:g} counts here; DINOv3's own training code gives a "
            f"ConvNeXt none ({TABLE})"
        )
    usual = type(student)()
    idle = [name for name in OF_VITS if f"student.{name}" in given and getattr(student, name) != getattr(usual, name)]
    if idle:
        yield f"{given[f'student.{idle[0]}']}: student: {', '.join(idle)}: a ConvNeXt has none of it: without effect"
