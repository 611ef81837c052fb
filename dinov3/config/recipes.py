"""The recipes that are shipped, by short name; and which of them fits a folder of images and a machine."""

from __future__ import annotations

from pathlib import Path

from dinov3.system.paths import expanded

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
FROM_THE_CHECKOUT = "configs/train/"  # what the same files are called in README and in their first lines
# Recipes of other kinds of training: where they are in a checkout -> where they are shipped. Their short names are `dit/demo_cpu`.
OTHERS = {"configs/dit/": SHIPPED.parent / "generate" / "recipes"}


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
