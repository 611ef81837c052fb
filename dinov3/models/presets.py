"""The settings of the released models."""

from __future__ import annotations

from typing import Any

from dinov3.config.archs import CONVNEXT_ARCHS, VIT_ARCHS
from dinov3.config.presets import RELEASED


def _arguments(flags: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a released model from its flags in the config."""
    if flags["arch"] in CONVNEXT_ARCHS:
        return CONVNEXT_ARCHS[flags["arch"]]
    others = {key: value for key, value in flags.items() if key not in ("arch", "layerscale")}
    return VIT_ARCHS[flags["arch"]] | others | {"layerscale_init": flags["layerscale"]}


# Released models: constructor arguments.
PRESETS: dict[str, dict[str, Any]] = {name: _arguments(flags) for name, flags in RELEASED.items()}
