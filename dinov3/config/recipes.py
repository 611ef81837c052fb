"""The recipes that are shipped, by short name; and which of them fits a folder of images and a machine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dinov3.system.paths import expanded

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
FROM_THE_CHECKOUT = "configs/train/"  # what the same files are called in README and in their first lines
# Recipes of other kinds of training: where they are in a checkout -> where they are shipped. Their short names are `dit/demo_cpu`.
OTHERS = {"configs/dit/": SHIPPED.parent / "generate" / "recipes"}


class Rule(NamedTuple):
    """A recipe for at least so many GPUs and images."""

    gpus: int
    images: int
    recipe: str
    why: str


# The first that fits is taken. None of it is measured beyond what the recipes say of themselves.
RULES = (
    Rule(8, 1_000_000, "vitl_im1k", "a million images and eight GPUs"),
    Rule(1, 10_000, "vits_one_gpu", "a GPU and ten thousand images"),
    Rule(0, 0, "photos_vits", "50 steps, to see that everything works"),
)


def config_file(text: str) -> Path:
    """A path; or ``demo_cpu``, or ``configs/train/demo_cpu.yaml`` away from the checkout, for a shipped recipe."""
    path = expanded(text)
    if path.is_file():
        return path
    for checkout, shipped in OTHERS.items():
        short = checkout.removeprefix("configs/")
        if text.startswith((checkout, short)) and (found := shipped / f"{Path(text).stem}.yaml").is_file():
            return found
    name = text.removeprefix(FROM_THE_CHECKOUT).removesuffix(".yaml")
    return SHIPPED / f"{name}.yaml" if name in [*recipes(), *students()] else path


def recipes() -> list[str]:
    """Short names of the shipped recipes."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def students() -> list[str]:
    """Names of the files that the recipe of several students lays over itself."""
    return sorted(f"students/{path.stem}" for path in SHIPPED.glob("students/*.yaml"))


def rule_for(images: int, gpus: int) -> Rule:
    """The recipe for a folder without a recipe of its own."""
    return next(rule for rule in RULES if gpus >= rule.gpus and images >= rule.images)
