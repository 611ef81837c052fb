"""What is looked at while a diffusion transformer trains. Distances are mean squares of normalised latents: 1 is their variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dinov3.config.dit import DitConfig
from dinov3.engine.look import Look
from dinov3.generate.validation.frechet import frechet_distance
from dinov3.generate.validation.grid import write_grid
from dinov3.generate.validation.scene import CONDITIONS, DitScene, Made

Row = Mapping[str, Any]


class DitLook(Look[DitScene]):
    """Due every ``validation.period`` steps, and before and after training."""

    def __init__(self, cfg: DitConfig) -> None:
        self.period = cfg.validation.period


def distance(a: Tensor, b: Tensor) -> float:
    """Mean square of the difference."""
    return float((a - b).square().mean())


def over_images(made: Sequence[Made], condition: str, *, to_donor: bool = False) -> float:
    """Mean distance between what was made and the images, each image counting once."""
    each = [
        (m.by[condition] - (m.donor if to_donor else m.real)).square().flatten(1).mean(1)
        for m in made
        if len(m.real) > 1 or condition != "swap"
    ]
    return float(torch.cat(each).mean()) if each else float("nan")


class Reconstruction(DitLook):
    """From an image's own text and features: is it the image? Also for each size."""

    name = "reconstruction"

    def measure(self, scene: DitScene) -> dict[str, Any]:
        row: dict[str, Any] = {"recon_mse": over_images(scene.made, "recon")}
        if len(scene.made) > 1:
            row |= {f"recon_mse_{m.bucket}": distance(m.by["recon"], m.real) for m in scene.made}
        return row

    def sentence(self, rows: Sequence[Row]) -> str | None:
        known = [row["recon_mse"] for row in rows if "recon_mse" in row]
        return f"reconstruction, mean square (variance 1): {known[0]:.3f} -> {known[-1]:.3f}" if known else None


class Swap(DitLook):
    """With another image's features: is it that other image? A ratio of 0: wholly; 1: no nearer than to its own."""

    name = "swap"

    def measure(self, scene: DitScene) -> dict[str, Any]:
        donor, own = over_images(scene.made, "swap", to_donor=True), over_images(scene.made, "swap")
        if not own > 0:  # no bucket has two images
            return {}
        return {"swap_to_donor": donor, "swap_to_self": own, "swap_ratio": donor / own}

    def sentence(self, rows: Sequence[Row]) -> str | None:
        known = [row["swap_ratio"] for row in rows if "swap_ratio" in row]
        return f"swapped features, distance to the donor over that to its own: {known[-1]:.3f}" if known else None


class TextOnly(DitLook):
    """From the text alone."""

    name = "text_only"

    def measure(self, scene: DitScene) -> dict[str, Any]:
        return {"text_only_mse": over_images(scene.made, "text_only")}


class Unconditional(DitLook):
    """From nothing."""

    name = "uncond"

    def measure(self, scene: DitScene) -> dict[str, Any]:
        return {"uncond_mse": over_images(scene.made, "uncond")}


class Frechet(DitLook):
    """Fréchet distances in the backbone's class tokens, between decoded latents of real images and of made ones."""

    name = "frechet"

    def measure(self, scene: DitScene) -> dict[str, Any]:
        if scene.features is None:
            return {}
        real = self._features(scene, [m.real for m in scene.made])
        if real is None or len(real) < 2:  # one image has no spread
            return {}
        row: dict[str, Any] = {"frechet_images": len(real)}
        for name in CONDITIONS:
            made = self._features(scene, [m.by[name] for m in scene.made])
            assert made is not None
            row[f"frechet_{name}"] = frechet_distance(real, made)
        return row

    def _features(self, scene: DitScene, latents: Sequence[Tensor]) -> Tensor | None:
        found = []
        for part in latents:
            images = scene.images(part)
            if images is None or scene.features is None:
                return None
            found.append(scene.features(images))
        return torch.cat(found)


class Grid(DitLook):
    """``pictures/dit-STEP.png``: images, their reconstructions, swapped, from text alone, from nothing."""

    name = "grid"
    in_rows = False

    def measure(self, scene: DitScene) -> dict[str, Any]:
        self._draw(scene)
        return {}

    def _draw(self, scene: DitScene) -> None:
        for m in scene.made:
            rows = {"image": m.real, **m.by, "donor": m.donor}
            pictures = {name: scene.images(latents[:8]) for name, latents in rows.items()}
            shown = {name: images for name, images in pictures.items() if images is not None}
            if shown:
                scene.run.pictures.mkdir(exist_ok=True)
                write_grid(scene.run.pictures / f"dit-{m.bucket}-{scene.step:08d}.png", shown)


KINDS = (Reconstruction, Swap, TextOnly, Unconditional, Frechet, Grid)


def looks(cfg: DitConfig) -> list[Look[DitScene]]:
    """One of each."""
    return [kind(cfg) for kind in KINDS]
