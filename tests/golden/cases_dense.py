"""Golden cases of dense evaluation: segmentation (G07 to G09), depth (G10, G11), labels of a video (G12), matching (G13).

Weights are stored with these cases. Sizes and options are those of the case; what its JSON holds is compared too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.dense.depth_bins import depth_bins, depth_of, pad_to_multiple
from dinov3.dense.depth_losses import WARM_UP_CALLS, SigLoss, gradient_loss, l1_loss
from dinov3.dense.depth_metrics import (
    METRICS,
    depth_scores,
    eigen_crop,
    evaluate_depth,
    flip_average,
    mean_scores,
)
from dinov3.dense.linear_head import LinearHead
from dinov3.dense.matching import correspondence as matching
from dinov3.dense.segmentation import MEANS, areas, class_scores, summary, without_zero
from dinov3.dense.video.propagation import Rules, Tracker, one_hot, to_grid, to_mask
from dinov3.dense.windows import Network, Size, mirrored_logits, resized, slide, whole, window_places
from tests.golden.case import Case


def told(case: Case, what: str, found: Any, expected: Any) -> None:
    """Compare with what the JSON of the case says; numbers to 1e-6."""
    case.checked += 1
    a, b = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if a.shape != b.shape or not np.allclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True):
        case.failures.append(f"{what}: {found}, expected {expected}")


def inputs(case: Case, *keys: str) -> list[Tensor]:
    """Arrays that are given, not to be computed."""
    case.seen |= set(keys)
    return [case.tensor(key) for key in keys]


def head_weights(case: Case, prefix: str) -> dict[str, Tensor]:
    keys = [key for key in case.arrays if key.startswith(prefix)]
    return dict(zip([key.removeprefix(prefix) for key in keys], inputs(case, *keys), strict=True))


def load_head(case: Case, head: LinearHead, weights: Mapping[str, Tensor]) -> LinearHead:
    counters = {k: v for k, v in head.state_dict().items() if k.endswith("num_batches_tracked")}
    head.load_state_dict({**counters, **weights}, strict=True)
    return head.to(case.device).eval()


def run_areas(case: Case) -> None:
    for row in case.meta["cases"]:
        name, classes, ignore = row["case"], row["num_classes"], row["ignore_index"]
        total = torch.zeros(4, classes, dtype=torch.int64, device=case.device)
        for i in range(row["images"]):
            predicted, label = inputs(case, f"{name}/{i}/pred", f"{name}/{i}/label")
            label = without_zero(label, ignore) if row["reduce_zero_label"] else label
            found = areas(predicted, label, classes, ignore)
            case.check(f"{name}/{i}/areas", found)
            total += found
        for score, values in class_scores(total).items():
            case.check(f"{name}/per_class/{score}", values)
        means = summary(total)
        case.check(f"{name}/summary", np.array([means[key] for key in MEANS]))
    case.fail_if_unchecked()


def run_windows(case: Case) -> None:
    patch, classes = case.meta["config"]["patch"], case.meta["config"]["num_classes"]
    weights = head_weights(case, "head/")
    normed = any(key.startswith("batchnorm") for key in weights)
    head = load_head(case, LinearHead([weights["conv.weight"].shape[1]], classes, batchnorm=normed), weights)

    def network(images: Tensor) -> Tensor:
        a = F.avg_pool2d(images, patch)
        logits: Tensor = head([torch.cat([a, a * a, torch.sin(3 * a)], dim=1)])
        return logits

    with torch.no_grad():
        for i, run in enumerate(case.meta["runs"]):
            (x,) = inputs(case, f"{i}/x")
            crop, stride = tuple(run["crop"]), tuple(run["stride"])
            told(case, f"{i}/windows", window_places(tuple(run["image"]), crop, stride), run["windows_y1_y2_x1_x2"])
            logits, count = slide(network, x, crop, stride)
            case.check(f"{i}/logits", logits)
            case.check(f"{i}/count", count.int())
            if "rescale_to" in run:
                slid = partial(_slid, network, crop, stride)
                turned = mirrored_logits(slid, x.flip(-1), tuple(run["rescale_to"]))
                case.check(f"{i}/tta_flip_probs", turned.softmax(1))
        if "whole/x" in case.arrays:
            (x,) = inputs(case, "whole/x")
            size = tuple(case.arrays["whole/logits"].shape[-2:])
            case.check("whole/logits", resized(whole(network, x, (512, 512)), size))
    case.fail_if_unchecked()


def _slid(network: Network, crop: Size, stride: Size, images: Tensor) -> Tensor:
    return slide(network, images, crop, stride)[0]


def run_head(case: Case) -> None:
    for i, row in enumerate(case.meta["cases"]):
        levels: list[Any] = []
        for level in range(len(row["grids"])):
            (patches,) = inputs(case, f"{i}/features/{level}")
            levels.append((patches, *inputs(case, f"{i}/cls/{level}")) if row["cls_token"] else patches)
        options = {"batchnorm": row["batchnorm"], "cls_token": row["cls_token"], "dropout": 0.0}
        head = load_head(
            case, LinearHead(row["in_channels"], row["classes"], **options), head_weights(case, f"{i}/head/")
        )
        with torch.no_grad():
            case.check(f"{i}/forward", head(levels))
            case.check(f"{i}/predict", head.predict(levels, tuple(row["predict_size"])))
            if f"train/{i}/forward" in case.arrays:
                case.check(f"train/{i}/forward", head.train()(levels))
        for name in ("running_mean", "running_var"):
            if f"train/{i}/{name}" in case.arrays:
                case.check(f"train/{i}/{name}", getattr(head.batchnorm_layer, name))
    case.fail_if_unchecked()


def run_depth_metrics(case: Case) -> None:
    order = [METRICS.index(name) for name in case.meta["config"]["metrics"]]
    for i, run in enumerate(case.meta["runs"]):
        low, high = run["eval_range"]
        images = sorted({int(k.split("/")[1]) for k in case.arrays if k.startswith(f"{i}/") and k.endswith("/gt")})
        each = []
        for j in images:
            truth, prediction = inputs(case, f"{i}/{j}/gt", f"{i}/{j}/pred")
            if run["flip_tta"]:
                prediction = flip_average(prediction, *inputs(case, f"{i}/{j}/pred_of_flipped_image"))
            options = {"eigen": run["eval_mask"] == "NYU_EIGEN", "align": run["align_least_squares"]}
            found, valid, fit = evaluate_depth(prediction, truth, low=low, high=high, empty_silog=0.0, **options)
            each.append(found[order])
            case.check(f"{i}/{j}/valid", valid)
            case.check(f"{i}/{j}/valid_count", valid.sum())
            if f"{i}/{j}/scale_shift" in case.arrays:
                case.check(f"{i}/{j}/scale_shift", np.array(fit))
        case.check(f"{i}/per_image", torch.stack(each))
        case.check(f"{i}/mean", mean_scores(torch.stack(each)))
    if "raw/gt" in case.arrays:
        truth, prediction, valid = inputs(case, "raw/gt", "raw/pred", "raw/valid")
        case.check("raw/metrics", depth_scores(prediction, truth, valid, empty_silog=0.0)[order])
    case.fail_if_unchecked()


def run_depth_bins(case: Case) -> None:
    for i, row in enumerate(case.meta["cases"]):
        (logits,) = inputs(case, f"{i}/logits")
        low, high, bins = row["min_depth"], row["max_depth"], row["bins_strategy"]
        case.check(f"{i}/depth", depth_of(logits, low, high, bins=bins, norm=row["norm_strategy"]))
        if f"{i}/bins" in case.arrays:
            case.check(f"{i}/bins", depth_bins(row["n_bins"], low, high, bins))
    for row in case.meta.get("nyu_eigen_crop", []):
        told(case, f"Eigen crop of {row['size']}", eigen_crop(*row["size"]), row["y1_y2_x1_x2"])
    if "loss/pred" in case.arrays:
        _check_losses(case)
    pads = sorted({key.split("/")[1] for key in case.arrays if key.startswith("pad/")})
    for name in pads:
        mode, _, multiple = case.meta["arrays"][f"pad/{name}/y"]["is"].partition(" to a multiple of ")
        case.check(f"pad/{name}/y", pad_to_multiple(*inputs(case, f"pad/{name}/x"), int(multiple), mode))
    case.fail_if_unchecked()


def _check_losses(case: Case) -> None:
    prediction, truth, valid = inputs(case, "loss/pred", "loss/gt", "loss/valid")
    late = SigLoss()
    late.calls = WARM_UP_CALLS
    losses: dict[str, Callable[..., Tensor]] = {
        "sigloss_first_100_calls": SigLoss(),
        "sigloss_after": late,
        "gradient_loss": gradient_loss,
        "gradient_log_loss": lambda *x: gradient_loss(*x, log=True),
        "l1": l1_loss,
    }
    for name, loss in losses.items():
        if f"loss/{name}" in case.arrays:
            x = prediction.clone().requires_grad_()
            value = loss(x, truth, valid)
            value.backward()
            case.check(f"loss/{name}", value)
            case.check(f"loss/{name}_grad", x.grad)


def run_propagation(case: Case) -> None:
    features, mask = inputs(case, "in/features", "in/first_mask")
    grid = tuple(features.shape[1:3])
    for variant in ("notebook", "dino"):
        small = to_grid(mask, grid, variant)
        if f"{variant}/first_mask_small" in case.arrays:
            case.check(f"{variant}/first_mask_small", small)
        for i, row in enumerate(case.meta.get(f"{variant}_settings", [])):
            rules = _notebook_rules(row) if variant == "notebook" else _dino_rules(row)
            size = tuple(mask.shape) if variant == "notebook" else tuple(side * row["upsample"] for side in grid)
            _check_video(
                case, f"{variant}/{i}", rules, features.float(), one_hot(small, case.meta["config"]["labels"]), size
            )
    case.fail_if_unchecked()


def _notebook_rules(row: dict[str, Any]) -> Rules:
    near = {"radius": row["neighborhood_size"], "shape": row["neighborhood_shape"]}
    return Rules(
        "notebook", context=row["max_context_length"], topk=row["topk"], temperature=row["temperature"], **near
    )


def _dino_rules(row: dict[str, Any]) -> Rules:
    near = {"radius": row["size_mask_neighborhood"], "shape": "square"}
    return Rules("dino", context=row["n_last_frames"], topk=row["topk"], temperature=row["temperature"], **near)


def _check_video(case: Case, name: str, rules: Rules, features: Tensor, first: Tensor, size: tuple[int, int]) -> None:
    tracker = Tracker(features[0], first, rules)
    found = [first, *(tracker.step(frame) for frame in features[1:])]
    probabilities = torch.stack(found)
    case.check(f"{name}/probs", probabilities if rules.variant == "notebook" else probabilities.permute(0, 3, 1, 2))
    sure, predicted = inputs(case, f"{name}/sure", f"{name}/pred")
    own = torch.stack([to_mask(frame, size, rules.variant) for frame in found[1:]])
    case.checked += 1
    if own.shape != predicted.shape or bool((own != predicted)[sure].any()):
        case.failures.append(f"{name}/pred: differs where the best two labels are apart")


def run_matching(case: Case) -> None:
    config, pooled = case.meta["config"], {}
    patch = config["patch"]
    for i, row in enumerate(case.meta["pairs"]):
        keys = [f"{i}/{name}" for name in ("source_features", "target_features", "source_xy", "target_xy", "visible")]
        source, target, source_xy, target_xy, visible = inputs(case, *keys)
        lengths = {
            "image": matching.image_length(target.shape[0] * patch, target.shape[1] * patch),
            "bbox": matching.box_length(target_xy[visible]),
        }
        for name, length in row["reference_length"].items():
            told(case, f"{i}/reference_length/{name}", lengths[name], length)
        told(case, f"{i}/target_bbox", matching.box_of(target_xy[visible]), row["target_bbox_x1_y1_x2_y2"])
        for how in [how for how in ("nearest", "bilinear") if how in row]:
            found = matching.transfer(source, target, source_xy, target_xy, patch, how)
            for key, value in (("match", found.match), ("pred_xy", found.predicted), ("error_px", found.error)):
                case.check(f"{i}/{how}/{key}", value)
            pooled.setdefault(how, []).append((found.error[visible], lengths))
            for kind, table in row[how].items():
                told(
                    case, f"{i}/{how}/{kind}", _scores(kind, found.error[visible], lengths, table), list(table.values())
                )
    for how, table in case.meta.get("summary", {}).items():
        _check_summary(case, how, table, pooled[how])
    for i, row in enumerate(case.meta.get("homography", [])):
        _check_homography(case, f"homography/{i}", row, patch)
    case.fail_if_unchecked()


def _scores(kind: str, error: Tensor, lengths: Mapping[str, float], table: Mapping[str, float]) -> list[float]:
    if kind == "recall_px":
        return [matching.recall(error, float(radius)) for radius in table]
    return [matching.pck(error, lengths[kind.removeprefix("pck_")], float(alpha)) for alpha in table]


def _check_summary(
    case: Case, how: str, table: Mapping[str, Any], pairs: list[tuple[Tensor, dict[str, float]]]
) -> None:
    errors = [error for error, _ in pairs]
    for average in ("per_point", "per_pair"):
        for kind, values in table.get(average, {}).items():
            lengths = [length[kind.removeprefix("pck_")] for _, length in pairs]
            own = [matching.pooled_pck(errors, lengths, float(alpha))[average] for alpha in values]
            told(case, f"summary/{how}/{average}/{kind}", own, list(values.values()))
    radii = table.get("recall_px_per_point", {})
    own = [matching.recall(torch.cat(errors), float(radius)) for radius in radii]
    told(case, f"summary/{how}/recall", own, list(radii.values()))


def _check_homography(case: Case, name: str, row: Mapping[str, Any], patch: int) -> None:
    source, target, homography = inputs(case, *(f"{name}/{key}" for key in ("source_features", "target_features", "H")))
    found = matching.match_homography(source, target, homography, patch)
    for key, value in (("match", found.match), ("similarity", found.similarity), ("inside", found.inside)):
        case.check(f"{name}/{key}", value)
    case.check(f"{name}/error_px", found.error)
    case.check(f"{name}/mutual", found.mutual)
    inside, both = found.error[found.inside], found.error[found.inside & found.mutual]
    told(case, f"{name}/points", [len(inside), len(both)], [row["points"], row["mutual_points"]])
    for key, error in (("recall", inside), ("recall_mutual", both)):
        own = [matching.recall(error, float(radius)) for radius in row[key]]
        told(case, f"{name}/{key}", own, list(row[key].values()))
    told(case, f"{name}/mean_error_px", float(inside.mean()), row["mean_error_px"])


RUNNERS: dict[str, Callable[[Case], None]] = {
    "G07": run_areas,
    "G08": run_windows,
    "G09": run_head,
    "G10": run_depth_metrics,
    "G11": run_depth_bins,
    "G12": run_propagation,
    "G13": run_matching,
}
