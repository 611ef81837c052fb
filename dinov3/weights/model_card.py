"""The README beside an export: what it is, where it comes from, how to load it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dinov3 import __version__
from dinov3.config.changes import changed_keys
from dinov3.config.convert import as_text
from dinov3.config.dump import to_dict
from dinov3.config.redaction import redacted
from dinov3.config.schema import Config
from dinov3.models.backbone import Backbone
from dinov3.models.build import describe_backbone
from dinov3.models.shapes import shape_line
from dinov3.models.vit_config import BlockShape
from dinov3.runs.folder import RunFolder
from dinov3.runs.manifest import read_train_state
from dinov3.runs.recorded import InForce, config_in_force
from dinov3.system.rows import read_rows
from dinov3.weights.description import BACKBONE
from dinov3.weights.fingerprint import fingerprint
from dinov3.weights.formats import Written
from dinov3.weights.own import checkpoint_in
from dinov3.weights.provenance import MAX_RECIPE, MAX_TEXT, Facts, Provenance, provenance_from

log = logging.getLogger(__name__)
MARK = "<!-- written by dinov3 export -->"
FINE_TUNED = "fine-tuned"  # what the note of a backbone that learned from labels begins with
RELEASED_TERMS = (
    "the licence of those weights goes on to apply to these. DINOv3's released weights are under the DINOv3 License, "
    "which is not an open-source licence"
)


def provenance_of(source: Path, described: Mapping[str, Any] | None, notes: Sequence[str]) -> Provenance:
    """Where the weights at ``source`` come from; what an export of ours carries is carried on.

    ``described``: our description of them, None for files of others. ``notes``: what this export changes.
    """
    checkpoint = checkpoint_in(source.parent if _in_checkpoint(source) else source)
    changed = [("note", note) for note in notes]
    if checkpoint is None and described is not None:
        if "provenance" in described:
            before = provenance_from(described["provenance"])
            return Provenance([*before.rows, *(row for row in changed if row not in before.rows)], before.recipe)
        return Provenance(
            [("made from", source.name), ("starting weights", f"not recorded in {source.name}"), *changed]
        )
    run = checkpoint.resolve().parents[1] if checkpoint else None
    state = read_train_state(checkpoint) if checkpoint else {}
    known = config_in_force(RunFolder(run)) if run else InForce(None, None, None)
    name = source.name if run is None or (source.is_dir() and source != checkpoint) else run.name
    rows = [
        *(_origin(name, state, known.now) if state else [("made from", name)]),
        *_changes(run, known),
        *_metrics(run),
        ("starting weights", _licence(state, source)),
        *changed,
    ]
    return Provenance(
        [(key, value[:MAX_TEXT]) for key, value in rows], _recipe(known.now)[:MAX_RECIPE] if known.now else ""
    )


def _in_checkpoint(source: Path) -> bool:
    """Is it the backbone's file in a checkpoint of a run?"""
    return source.name == BACKBONE and (source.parent / "manifest.json").is_file()


def model_card(
    source: Path, name: str, backbone: Backbone, facts: Facts, written: Written, notes: Sequence[str]
) -> str:
    """Markdown. What is not known of ``source`` (metrics, recipe, data) is left out, not made up."""
    told = facts.provenance
    rows = [
        *_architecture(backbone, facts.preprocess),
        *told.rows,
        *([("exported from", source.name)] if told.rows[:1] != [("made from", source.name)] else []),
        ("check", str(written.parity)),
        ("fingerprint", " ".join(f"{x:.4f}" for x in fingerprint(backbone)[:4])),
        *(("note", note) for note in notes if ("note", note) not in told.rows),
    ]
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows)
    fenced = told.recipe.replace("```", "` ` `")
    recipe = f"\n## Recipe\n\nWhat differs from the defaults:\n\n```yaml\n{fenced}```\n" if fenced else ""
    tuned = any(key == "note" and value.startswith(FINE_TUNED) for key, value in told.rows)
    trained = "fine-tuned on labels" if tuned else "trained without labels"
    return (
        f"# {name}\n\n{MARK}\n\nA vision backbone {trained}, exported by dinov3 {__version__}.\n\n"
        f"| | |\n|---|---|\n{table}\n\n## Load it\n\n```python\n{written.how_to_load.strip()}\n```\n{recipe}"
    )


def _cell(text: str) -> str:
    """Text of a file for a table of Markdown: no other column, line or tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _architecture(backbone: Backbone, preprocess: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    described = describe_backbone(backbone)
    config = described["config"]
    millions = sum(p.numel() for p in backbone.parameters()) / 1e6
    if "dims" in config:
        yield "architecture", f"ConvNeXt, depths {list(config['depths'])}, widths {list(config['dims'])}"
    else:
        kind = f"ViT, patch {config['patch_size']}, width {config['embed_dim']}, {config['depth']} blocks"
        yield "architecture", f"{kind}, {config['num_heads']} heads, {config['n_storage_tokens']} storage tokens"
        for index, shape in enumerate(config.get("block_shapes", ())):
            yield f"block {index}", shape_line(BlockShape(**shape))
        if "int8" in config:
            yield "numbers", f"linear layers of the blocks in 8 bits, {config['int8']}"
    yield "parameters", f"{millions:.1f} M, float32"
    size = preprocess.get("size")
    trained = f"; trained at {size} px" if size else ""
    yield "images", f"{backbone.in_chans} channels, any size in multiples of {backbone.stride} px{trained}"
    mean, std = ([round(float(x), 4) for x in preprocess[key]] for key in ("mean", "std"))
    yield "normalisation", f"values in 0..1, minus mean {mean}, divided by std {std}"


def _origin(name: str, state: Mapping[str, Any], config: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    counters = state.get("counters", {})
    yield "made from", f"{name}, step {counters.get('step')}, {counters.get('samples', 0):,} images seen"
    if config is not None:
        named = redacted("dataset_path", config["train"]["dataset_path"])
        yield "data", f"{named} (fingerprint {state['dataset']})" if state.get("dataset") else str(named)


def _changes(run: Path | None, known: InForce) -> Iterator[tuple[str, str]]:
    """Where the recipe, which is the config in force, is not what the run began with, and what of it cannot be read."""
    if known.problem:
        log.warning("%s: %s", run, known.problem)  # it may name folders, which a card that is passed on does not
        lost = "is damaged: no recipe" if known.now is None else "is that of the start: a later one cannot be read"
        yield "config", lost
    changed = changed_keys(redacted("", known.began or {}), redacted("", known.now or {}))
    if changed:
        told = (f"{key} was {as_text(old)} at the start, is {as_text(new)}" for key, (old, new) in changed.items())
        yield "changed", "; ".join(told)


def _metrics(run: Path | None) -> Iterator[tuple[str, str]]:
    """The last row of the run's evaluation."""
    path = run / "evaluation.jsonl" if run else None
    rows = read_rows(path) if path and path.is_file() else []
    if rows:
        yield "metrics", ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items())


def _licence(state: Mapping[str, Any], source: Path) -> str:
    if not state:
        return f"{source.name}: {RELEASED_TERMS}"
    began = state.get("pretrained")
    if began is None:
        return "none: training began with random weights"
    return f"{Path(began['path']).name} ({began['layout']}, sha256 {began['sha256'][:16]}): {RELEASED_TERMS}"


def _recipe(config: Mapping[str, Any]) -> str:
    """Keys that differ from the defaults, without secrets, as YAML."""
    changed = _changed(redacted("", dict(config)), to_dict(Config()))
    return yaml.safe_dump(changed, sort_keys=False, default_flow_style=False, width=100)


def _changed(values: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key) if isinstance(defaults, Mapping) else None
        if isinstance(value, Mapping):
            if inner := _changed(value, default):
                found[key] = inner
        elif value != default:
            found[key] = value
    return found
