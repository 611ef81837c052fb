"""Golden cases of the diffusion transformer's parts: flow (G14), sizes (G15), names in tar shards (G16).

Sizes and options are those of the case; what its JSON holds is compared too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinov3.generate import guidance, times
from dinov3.generate.buckets import Bucket, down_to_multiple, to_multiple
from dinov3.generate.conditions import ConditionShares, categories_of, dropped
from dinov3.generate.errors import GenerateError
from dinov3.generate.samplers import Field, sample, sample_times, trajectory
from dinov3.generate.shard_names import key_and_field, samples_of
from dinov3.models.diffusion.conditioning import context_bias, cross_attention, modulate, plain_cross_attention
from dinov3.models.diffusion.position_tables import position_table, time_table
from tests.golden.case import Case


def told(case: Case, what: str, found: Any, expected: Any) -> None:
    """Compare with what the JSON of the case says."""
    case.checked += 1
    if found != expected:
        case.failures.append(f"{what}: {found}, expected {expected}")


def inputs(case: Case, *keys: str) -> list[Tensor]:
    """Arrays that are given, not to be computed."""
    case.seen |= set(keys)
    return [case.tensor(key) for key in keys]


def run_flow(case: Case) -> None:
    for i, row in enumerate(case.meta.get("position_tables", [])):
        case.check(f"pe/{i}", position_table(row["h"], row["w"], row["dim"], scale=row["scale"], base=row["base"]))
    for part, check in PARTS.items():
        if any(key.startswith(f"{part}/") for key in case.arrays):
            check(case)
    case.fail_if_unchecked()


def check_time(case: Case) -> None:
    (t,) = inputs(case, "time/t")
    for key in [key for key in case.arrays if key.startswith("time/sin_cos_")]:
        case.check(key, time_table(t, int(key.rpartition("_")[2])))


def check_guidance(case: Case) -> None:
    none, text, dino, full = inputs(case, *(f"guidance/v_{name}" for name in ("uncond", "text", "dino", "full")))
    for i, row in enumerate(case.meta["guidance"]["rows"]):
        scales = {"text_scale": row["s_text"], "dino_scale": row["s_dino"]}
        found = {
            "independent": guidance.independent(none, text, dino, **scales),
            "chained": guidance.chained(none, dino, full, **scales),
            "full": full,
        }
        for mode, value in found.items():
            if (key := f"guidance/{i}/{mode}") in case.arrays:
                case.check(key, value)


def check_euler(case: Case) -> None:
    z, b, a, x_star = inputs(case, *(f"euler/{name}" for name in ("z1", "b", "a", "x_star")))
    fields: dict[str, Field] = {
        "constant": lambda z, t: b.expand_as(z),
        "linear": lambda z, t: z @ a.T + b,
        "straight": lambda z, t: (z - x_star) / t,
        "time": lambda z, t: t * z + torch.cos(3 * t),
    }
    for key in [key for key in case.arrays if re.fullmatch(r"euler/t_\d+", key)]:
        steps = int(key.rpartition("_")[2])
        t = sample_times(steps, device=case.device)
        case.check(key, t)
        for name, field in fields.items():
            if (path := f"euler/{name}_{steps}") in case.arrays:
                case.check(path, torch.stack(list(trajectory(field, z, t))))
    if "euler/linear_exact" in case.arrays:
        case.check("euler/linear_exact", sample(fields["linear"], z, 2000, "heun"))
        errors = [
            float((sample(fields["linear"], z, n) - case.tensor("euler/linear_exact")).norm()) for n in (200, 400)
        ]
        told(case, "Euler's error halves with twice the steps", 0.45 < errors[1] / errors[0] < 0.55, True)


def check_training(case: Case) -> None:
    normal, images, noise, predicted = inputs(case, *(f"train/{name}" for name in ("normal", "x0", "eps", "pred")))
    t = times.times_of(normal)
    losses = times.flow_losses(predicted, images, noise)
    results = {
        "t": t,
        "z_t": times.noised(images, noise, t),
        "target": times.velocity_of(images, noise),
        "loss_per_sample": losses,
        "loss": losses.mean(),
    }
    for name, value in results.items():
        case.check(f"train/{name}", value)


def check_categories(case: Case) -> None:
    rule = case.meta["categories"]
    names, shares = rule["names"], rule["probabilities"]
    ConditionShares.of(dict(zip(names, shares, strict=True)))
    found = categories_of(*inputs(case, "categories/u"), shares)
    drop_text, drop_dino = dropped(found, names)
    case.check("categories/category", found.int())
    case.check("categories/drop_text", drop_text)
    case.check("categories/drop_dino", drop_dino)
    if "check" in rule:
        counts = rule["check"]["counts"]
        draws = torch.from_numpy(np.random.default_rng(rule["check"]["seed"]).random(sum(counts)))
        told(case, "counts", categories_of(draws, shares).bincount(minlength=len(names)).tolist(), counts)


def check_modulation(case: Case) -> None:
    case.check("modulate/out", modulate(*inputs(case, *(f"modulate/{name}" for name in ("x", "shift", "scale")))))


def check_cross_attention(case: Case) -> None:
    q, k, v, mask = inputs(case, *(f"cross/{name}" for name in ("q", "k", "v", "text_mask")))
    heads = case.meta.get("cross", {}).get("heads", 1)
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    for key in [key for key in case.arrays if key.startswith("cross/out_vis_bias_")]:
        value = feature_bias(key.removeprefix("cross/out_vis_bias_"))
        bias = context_bias(mask, k.shape[2] - mask.shape[1], torch.tensor(value, dtype=q.dtype, device=q.device))
        no_key = (bias == -torch.inf).all(-1, keepdim=True)
        for attention in (cross_attention, plain_cross_attention):
            found = attention(q, k, v, bias).masked_fill(no_key, torch.nan)  # what such a row holds has no meaning
            case.check(key, found.transpose(1, 2).flatten(2))


def feature_bias(name: str) -> float:
    """``0``, ``m_log5``, ``minus_inf``, ``m_2.5``: m and minus are signs."""
    sign, rest = -1.0, re.sub(r"^(minus|m)_", "", name)
    if rest == name:
        sign = 1.0
    return sign * (math.log(float(rest[3:])) if rest.startswith("log") else float(rest))


PARTS: dict[str, Callable[[Case], None]] = {
    "time": check_time,
    "guidance": check_guidance,
    "euler": check_euler,
    "train": check_training,
    "categories": check_categories,
    "modulate": check_modulation,
    "cross": check_cross_attention,
}


def run_geometry(case: Case) -> None:
    for row in case.meta.get("round_half_up_min_16", []):
        size = row["width"], row["height"]
        bucket = Bucket(to_multiple(size[0]), to_multiple(size[1]))
        told(case, f"{size}", [bucket.width, bucket.height], [row["target_width"], row["target_height"]])
        told(case, f"{size} grid", list(bucket.grid()), row["grid_h_w"])
        told(case, f"{size} floor", [down_to_multiple(side) for side in size], row["floor_variant"])
    for row in case.meta.get("buckets", []):
        bucket = Bucket(row["width"], row["height"])
        told(case, f"{bucket} grid", list(bucket.grid()), row["grid_h_w"])
        told(case, f"{bucket} latent", list(bucket.latent()), row["latent_h_w"])
        told(case, f"{bucket} patches", bucket.patches(), row["patches"])
        told(case, f"{bucket} context", bucket.context(), row["context"])
        for key in [key for key in row if key.startswith("npy_fp16_bytes_")]:
            width = int(key.removeprefix("npy_fp16_bytes_").removesuffix("d"))
            told(case, f"{bucket} bytes", bucket.patches() * width * 2, row[key])
    case.fail_if_unchecked()


def run_names(case: Case) -> None:
    for row in case.meta.get("split", []):
        expected = None if row["key"] is None else (row["key"], row["ext"])
        told(case, row["name"], key_and_field(row["name"]), expected)
    for row in case.meta.get("tars", []):
        found: list[dict[str, Any]] = []
        problem = None
        try:
            for key, fields in samples_of(row["members"]):
                found.append({"key": key, "fields": fields})
        except GenerateError as error:
            problem = str(error)
        told(case, f"{row['members']} refused", problem is not None, row["error"] is not None)
        if problem is None or row["samples"]:
            told(case, f"{row['members']}", found, row["samples"])
        elif match := re.search(r'\(["\'](.*?): duplicate', row["error"]):
            told(case, f"{row['members']} at", problem.partition(": ")[0], match[1])
    case.fail_if_unchecked()


RUNNERS: dict[str, Callable[[Case], None]] = {"G14": run_flow, "G15": run_geometry, "G16": run_names}
