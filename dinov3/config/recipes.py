"""The recipes that are shipped, by short name; and which of them fits a folder of images and a machine."""

from __future__ import annotations

from pathlib import Path

from dinov3.system.paths import expanded

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
# Recipes of other kinds of training, by kind: `configs/KIND` in a checkout, this folder in an installation.
OTHERS = {
    "dit": SHIPPED.parent / "generate" / "recipes",
    "finetune": SHIPPED.parent / "finetune" / "recipes",
    "dense": SHIPPED.parent / "segment" / "recipes",
}


def config_file(text: str, kind: str = "train") -> Path:
    """A path, or that of a shipped recipe: ``demo_cpu``, ``configs/train/demo_cpu.yaml`` away from the checkout,
    ``finetune/pcam_lora``, ``pcam_lora``. ``kind``: of training, whose recipe is meant where two have one name.
    """
    path = expanded(text)
    if path.is_file():
        return path
    name = text.removeprefix("configs/").removesuffix(".yaml")
    shipped = {f"train/{own}": SHIPPED / f"{own}.yaml" for own in [*recipes(), *students()]}
    shipped |= {own: OTHERS[own.partition("/")[0]] / f"{own.partition('/')[2]}.yaml" for own in others()}
    places = [name, *(f"{first}/{name}" for first in (kind, "train", *OTHERS))]
    return next((shipped[place] for place in places if place in shipped), path)


def recipes() -> list[str]:
    """Short names of the shipped recipes."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def students() -> list[str]:
    """Names of the files that the recipe of several students lays over itself."""
    return sorted(f"students/{path.stem}" for path in SHIPPED.glob("students/*.yaml"))


def others() -> list[str]:
    """Names of the shipped recipes of other kinds of training: ``dit/demo_cpu``, ``finetune/pcam_lora``."""
    return [f"{kind}/{path.stem}" for kind, folder in OTHERS.items() for path in sorted(folder.glob("*.yaml"))]
