"""Training that starts from given weights: what fits is loaded, what does not is an error unless it was allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from dinov3.config.schema import StudentConfig
from dinov3.models.backbone import Backbone
from dinov3.models.build import COMPRESSED, backbone_from_description, describe_backbone, matching_preset
from dinov3.weights.files import WeightsError
from dinov3.weights.fingerprint import TOLERANCE, distance, fingerprint
from dinov3.weights.layouts import ModelWeights
from dinov3.weights.names.recognition import is_convnext, seen_settings
from dinov3.weights.own import absent_tensors, read_source, setting_differences
from dinov3.weights.reading.errors import clipped

HEADS = ("dino_head", "ibot_head")
SHOWN = 5  # names in a message
DIFFERENCES = 12  # of an architecture in a message: who sets them one by one wants to know all
PERIODS = "rope_embed.periods"
BF16 = 2**-7  # relative distance of two periods that differ by bf16 rounding only
# Settings that names and shapes do not show; compared when the file or its layout states them.
UNSEEN = (
    *("norm_layer", "num_heads", "pos_embed_rope_base", "pos_embed_rope_min_period", "pos_embed_rope_max_period"),
    "pos_embed_rope_normalize_coords",
)
SIZES = ("student.arch", "student.embed_dim", "student.depth")  # in which a student is another model altogether
# The first of these that a backbone has sees the image channels.
STEMS = tuple(
    f"backbone.{name}.weight" for name in ("patch_embed.filters", "patch_embed.proj", "downsample_layers.0.0")
)


@dataclass(frozen=True)
class LoadReport:
    """What was loaded at the start of a run. Saved with every checkpoint, so that a resumed run knows it too."""

    path: str
    layout: str
    sha256: str
    loaded: int  # tensors
    total: int  # tensors of the file
    heads: list[str]  # those that were loaded; the others start fresh
    kept: list[str]  # the student's tensors that keep their first value
    ignored: list[str]  # the file's tensors that were left out
    notes: list[str]
    fingerprint: list[float]

    @property
    def has_heads(self) -> bool:
        """Were both heads in the file?"""
        return set(self.heads) == set(HEADS)

    def lines(self) -> list[str]:
        """For the start-up block."""
        fresh = [name for name in HEADS if name not in self.heads]
        heads = "heads missing: they start fresh" if not self.heads else f"with {', '.join(self.heads)}"
        heads += f"; {', '.join(fresh)} starts fresh" if self.heads and fresh else ""
        rows = [
            f"start      {self.path} ({self.layout}, sha256 {self.sha256[:12]})",
            f"           loaded {self.loaded}/{self.total} tensors into student and EMA; {heads}",
        ]
        for what, names in (("keep their first value", self.kept), ("left out of the file", self.ignored)):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                rows.append(f"           {what}: {', '.join(names[:SHOWN])}{more}")
        return [*rows, *(f"           {note}" for note in self.notes)]


class _Allowed:
    """``student.pretrained_allow``: names, beginnings of names, or patterns."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = patterns

    def __call__(self, name: str) -> bool:
        names = (name, name.removeprefix("backbone."))
        return any(
            n == p or n.startswith(p.rstrip(".") + ".") or fnmatchcase(n, p) for n in names for p in self.patterns
        )


def load_start(student: nn.ModuleDict, cfg: StudentConfig) -> LoadReport | None:
    """Fill ``student`` (backbone and heads, unsharded) from the file its config names; None when it names none.

    Raises WeightsError for a setting of the architecture that differs, for a tensor that is missing, left over or of
    another shape, and for features that are not those stored with the weights; unless ``student.pretrained_allow``
    lists it. Channels other than the file's are the one exception, see ``inflated``.
    """
    path = cfg.resume_from_teacher_chkpt or cfg.pretrained_weights
    if not path:
        return None
    allowed = _Allowed(cfg.pretrained_allow)
    source = read_source(Path(path))
    if cut := [key for key in COMPRESSED if source.description and source.description["config"].get(key)]:
        raise WeightsError(
            f"{path}: a compressed model ({', '.join(cut)}), which student.* cannot describe: start from the model it was made of"
        )
    backbone = cast(Backbone, student["backbone"])
    notes = _compare_settings(backbone, source, allowed, cfg.preset)
    if cfg.resume_from_teacher_chkpt and (lacking := [h for h in HEADS if not _has(source.heads, h)]):
        raise WeightsError(
            f"{path}: student.resume_from_teacher_chkpt wants the heads, {', '.join(lacking)} is missing: "
            "use student.pretrained_weights to start with fresh heads"
        )
    tensors = {f"backbone.{k}": v for k, v in (source.backbone | absent_tensors(source)).items()} | source.heads
    total = len(tensors) - len(source.absent)
    notes += [f"{name} is not in files of {source.layout}: it starts at 0" for name in source.absent]
    notes += _fit_channels(tensors, student)
    wanted, kept, ignored = _matched(tensors, student, allowed, str(path))
    student.load_state_dict({**student.state_dict(), **wanted}, strict=True)
    numbers, checked = _compare_features(backbone, source, unchanged=not kept and not ignored)
    return LoadReport(
        path=str(path),
        layout=source.layout,
        sha256=source.raw.sha256(),
        loaded=len(wanted) - len(source.absent),
        total=total,
        heads=[h for h in HEADS if _has(wanted, h)],
        kept=kept,
        ignored=ignored,
        notes=[*notes, checked],
        fingerprint=numbers,
    )


def report_from(stored: dict[str, Any] | None) -> LoadReport | None:
    """What a checkpoint's ``train_state.json`` says about the start of its run."""
    return None if stored is None else LoadReport(**stored)


def as_json(report: LoadReport | None) -> dict[str, Any] | None:
    """The opposite of ``report_from``."""
    return None if report is None else dataclasses.asdict(report)


def _has(tensors: Iterable[str], head: str) -> bool:
    return any(name.startswith(f"{head}.") for name in tensors)


def _compare_settings(backbone: Backbone, source: ModelWeights, allowed: _Allowed, preset: str | None) -> list[str]:
    """WeightsError for the settings that differ; what cannot be compared is returned as notes."""
    own = {k: v for k, v in backbone.state_dict().items() if not k.startswith("norms.")}
    theirs = {k: v for k, v in source.backbone.items() if not k.startswith("norms.")}
    found = [(key, what) for key, what in setting_differences(theirs, own) if key != "student.in_chans"]
    notes: list[str] = []
    if not is_convnext(source.shapes) and not any(key == "student.arch" for key, _ in found):
        stated, notes = _stated(source)
        config = describe_backbone(backbone)["config"]
        if (norm := stated.get("norm_layer")) == "rmsnorm" or config["norm_layer"] == "rmsnorm":
            stated.pop("norm_layer", norm)  # shapes have told
        found += [
            (f"student.{key}", f"{config[key]}, the file's model has {value}: set it to {value}")
            for key, value in stated.items()
            if config[key] != value and f"student.{key}" not in dict(found)
        ]
        found += _period_difference(own, theirs, dict(found))
    refused = [f"{key}: {what}" for key, what in found if not allowed(key)]
    if refused:
        released = matching_preset(source.shapes)
        if released and any(key in SIZES and not allowed(key) for key, _ in found):
            own_size, their_size = _size(own), _size(theirs)
            set_now = f" (now student.preset={preset})" if preset else ""
            raise WeightsError(
                f"{source.source}: the architecture differs: these are the weights of {released} ({their_size}), and the "
                f"student is {own_size}: set student.preset={released}{set_now}"
            )
        released = None if preset else released
        raise WeightsError(
            f"{source.source}: the architecture differs: {'; '.join(refused[:DIFFERENCES])}"
            + ("" if len(refused) <= DIFFERENCES else f"; and {len(refused) - DIFFERENCES} more")
            + (f" (student.preset={released} sets all of them)" if released else "")
        )
    return notes + [f"allowed: {key}: {what.rpartition(':')[0]}" for key, what in found]


def _size(tensors: dict[str, Tensor]) -> str:
    """A few words for the size of a backbone."""
    seen = seen_settings({k: tuple(v.shape) for k, v in tensors.items()})
    if "dims" in seen:
        return f"a ConvNeXt of widths {seen['dims']} and {sum(seen['depths'])} cells"
    return f"a ViT of width {seen.get('embed_dim')} and {seen['depth']} blocks"


def _stated(source: ModelWeights) -> tuple[dict[str, Any], list[str]]:
    """What is known of the source beyond names and shapes, and a note when that is little."""
    if source.description is not None:
        config = source.description["config"]
        return {key: config[key] for key in UNSEEN if key in config}, []
    released = None if source.heads or source.layout == "DCP" else matching_preset(source.shapes)
    if released is not None:
        config = describe_backbone(backbone_from_description({"preset": released}, "meta"))["config"]
        return {key: config[key] for key in UNSEEN}, [f"names and shapes are those of {released}"]
    return {}, ["the file does not say its norm epsilon nor its RoPE coordinates: those of student.* are taken"]


def _period_difference(
    own: dict[str, Tensor], theirs: dict[str, Tensor], found: dict[str, str]
) -> list[tuple[str, str]]:
    """RoPE periods travel with the weights; other ones than configured mean another base."""
    a, b = own.get(PERIODS), theirs.get(PERIODS)
    if a is None or b is None or a.shape != b.shape or any("rope" in key for key in found):
        return []
    a, b = a.cpu().float(), b.float()
    if bool(((a - b).abs() <= BF16 * b.abs()).all()):
        return []
    text = ", ".join(f"{x:.3g}" for x in b[:3].tolist())
    return [("student.pos_embed_rope_base", f"gives other periods than the file's ({text}, …): set the file's base")]


def _fit_channels(tensors: dict[str, Tensor], student: nn.ModuleDict) -> list[str]:
    """Replace the first layer's weight when the student's images have other channels."""
    own = student.state_dict()
    for name in STEMS:
        if name in tensors and name in own and tensors[name].shape[1] != own[name].shape[1]:
            before, after = tensors[name].shape[1], own[name].shape[1]
            tensors[name] = inflated(tensors[name], after)
            return [f"first layer: {before} image channels to {after}: their mean, times {before}/{after}"]
    return []


def inflated(weight: Tensor, channels: int) -> Tensor:
    """A first layer's weight [D, C, p, p] for another number of image channels.

    Every new channel gets the mean over the old ones times C / ``channels``, so that an image that is the same in all
    channels gives the tokens it gave before (the rescaling rule of Carreira and Zisserman 2017, over channels).
    """
    mean = weight.float().mean(1, keepdim=True) * (weight.shape[1] / channels)
    return mean.repeat(1, channels, 1, 1).to(weight.dtype)


def _matched(
    tensors: dict[str, Tensor], student: nn.ModuleDict, allowed: _Allowed, path: str
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """What to load, the student's names that keep their value, the file's that are left out."""
    own = {k: tuple(v.shape) for k, v in student.state_dict().items() if not k.startswith("backbone.norms.")}
    theirs = {k: tuple(v.shape) for k, v in tensors.items() if not k.startswith("backbone.norms.")}
    fresh = [h for h in HEADS if not _has(theirs, h)]  # a released backbone has none
    missing = [k for k in own if k not in theirs and k.split(".")[0] not in (*fresh, *_not_heads(student))]
    unexpected = [k for k in theirs if k not in own]
    wrong = [k for k in theirs if k in own and theirs[k] != own[k]]
    problems = []
    for what, names, shape in (
        ("missing", missing, lambda k: f"{k} {own[k]}"),
        ("unexpected", unexpected, lambda k: f"{k} {theirs[k]}"),
        ("of another shape", wrong, lambda k: f"{k} {theirs[k]}, student {own[k]}"),
    ):
        refused = [k for k in names if not allowed(k)]
        if refused:
            problems.append(f"{len(refused)} {what}: {', '.join(clipped(shape(k)) for k in refused[:SHOWN])}")
    if problems:
        raise WeightsError(
            f"{path}: does not fit the student: {'; '.join(problems)}; "
            "what shall keep its first value or be left out goes into student.pretrained_allow"
        )
    wanted = {k: v for k, v in tensors.items() if k in theirs and k in own and k not in wrong}
    return wanted, sorted([*missing, *wrong]), sorted(unexpected)


def _not_heads(student: nn.ModuleDict) -> list[str]:
    """Other modules that train with the student (a projector): no file from outside has them."""
    return [name for name in student if name not in ("backbone", *HEADS)]


def _compare_features(backbone: Backbone, source: ModelWeights, *, unchanged: bool) -> tuple[list[float], str]:
    """The fingerprint of what was loaded, and a line about it; WeightsError when it is not the stored one."""
    found = fingerprint(backbone)
    stored = (source.description or {}).get("fingerprint")
    text = "features " + " ".join(f"{x:.4f}" for x in found[:4])
    if stored is None:
        return found, f"{text} of the fixed picture (nothing stored to compare with)"
    described = cast(dict[str, Any], source.description)["config"]
    config = describe_backbone(backbone)["config"]
    same = all(config.get(k) == described.get(k) for k in ("in_chans", "pos_embed_rope_dtype", "layerscale_init"))
    if not unchanged or not same:
        return found, f"{text} of the fixed picture (stored ones are of other settings: not compared)"
    if (off := distance(found, stored)) > TOLERANCE:
        raise WeightsError(
            f"{source.source}: the features after loading are not those stored with it (relative distance {off:.2g}, "
            f"at most {TOLERANCE:g}): weights and description do not belong together"
        )
    return found, f"{text} of the fixed picture: as stored (relative distance {off:.0e})"
