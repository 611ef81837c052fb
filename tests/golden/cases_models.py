"""Golden cases of the models: backbones (A), heads (B01) and architectures (F01)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.models import build
from dinov3.models.convnext import ConvNeXt, ConvNeXtConfig
from dinov3.models.head import DINOHead
from dinov3.models.presets import PRESETS
from dinov3.models.vit import DinoVisionTransformer
from dinov3.models.vit_config import VitConfig
from tests.golden.case import Case

FIELDS = {
    "x_norm_clstoken": "cls",
    "x_storage_tokens": "storage",
    "x_norm_patchtokens": "patches",
    "x_prenorm": "prenorm",
}


def compare(case: Case, outputs: Mapping[str, Tensor]) -> None:
    """Check every stored array that is not an input; one that was not computed is a failure."""
    for key in case.arrays:
        if key.startswith("in/"):
            continue
        if key in outputs:
            case.check(key, outputs[key])
        else:
            case.failures.append(f"{key}: stored, but not computed")


def named(prefix: str, features: Features) -> dict[str, Tensor]:
    return {f"{prefix}/{key}": getattr(features, field) for key, field in FIELDS.items()}


def cotangent_loss(case: Case, entries: Mapping[str, Features]) -> Tensor:
    """Sum over outputs of (output * cotangent), cotangents drawn from the seeds of the case."""
    total = torch.zeros((), device=case.device)
    for key, seed in case.meta["seeds"]["cot"].items():
        entry, _, name = key.rpartition("/")
        value: Tensor = getattr(entries[entry], FIELDS[name])
        cotangent = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)).to(value.device)
        total = total + (value * cotangent).sum()
    return total


def gradients(case: Case, model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert list(grads) == case.meta["grad_norm_names"], "named_parameters() come in another order"
    norms = [torch.full((), torch.nan, device=case.device) if g is None else g.norm() for g in grads.values()]
    found = {f"grad/{name}": g for name, g in grads.items() if g is not None}
    return found | {"grad_loss": loss, "grad/norms": torch.stack(norms)}


def run_vit(case: Case) -> None:
    model = DinoVisionTransformer(**case.meta["config"], device=case.device)
    model.init_weights()
    case.load_into(model)
    model.eval()
    x, x2, masks = case.tensor("in/x"), case.tensor("in/x2"), case.tensor("in/masks")
    outputs = named("eval", model(x, is_training=True)) | named("eval_masked", model(x, masks, is_training=True))
    outputs |= {"eval_head": model(x), "rope/periods": model.rope_embed.periods}
    for i, features in enumerate(model([x, x2], masks=[masks, None], is_training=True)):
        outputs |= named(f"list_eval/{i}", features)
    outputs |= intermediate_layers(model, x)
    for key in case.arrays:
        if key.endswith(("/sin", "/cos")):
            _, grid, which = key.split("/")
            outputs[key] = getattr(model.rope_embed(*map(int, grid.split("x"))), which)
    torch.manual_seed(case.meta["seeds"]["train_seed"])
    trained: list[Features] = model.train()([x, x2], masks=[masks, None], is_training=True)
    for i, features in enumerate(trained):
        outputs |= named(f"list_train/{i}", features)
    if "cot" in case.meta["seeds"]:
        outputs |= gradients(case, model, cotangent_loss(case, {str(i): f for i, f in enumerate(trained)}))
    compare(case, outputs)


def intermediate_layers(model: DinoVisionTransformer, x: Tensor) -> dict[str, Tensor]:
    outputs: dict[str, Any] = {}
    for i, layer in enumerate(model.get_intermediate_layers(x, n=2, reshape=True, norm=True)):
        outputs[f"inter_n2/{i}"] = layer
    first_and_last = model.get_intermediate_layers(
        x, n=[0, model.n_blocks - 1], return_class_token=True, return_extra_tokens=True, norm=False
    )
    for i, parts in enumerate(first_and_last):
        outputs |= {f"inter_list/{i}/{name}": t for name, t in zip(("patch", "cls", "extra"), parts, strict=True)}
    ((patch, cls),) = model.get_intermediate_layers(x, n=1, return_class_token=True)
    return outputs | {"inter_norm_cls/patch": patch, "inter_norm_cls/cls": cls}


def run_convnext(case: Case) -> None:
    model = ConvNeXt(**case.meta["config"], device=case.device)
    model.init_weights()
    case.load_into(model)
    model.eval()
    x, x2 = case.tensor("in/x"), case.tensor("in/x2")
    outputs: dict[str, Any] = named("eval", model(x, is_training=True))
    for i, features in enumerate(model([x, x2], masks=[None, None], is_training=True)):
        outputs |= named(f"list_eval/{i}", features)
    for i, (patch, cls) in enumerate(model.get_intermediate_layers(x, n=4, reshape=True, return_class_token=True)):
        outputs |= {f"inter_n4/{i}/patch": patch, f"inter_n4/{i}/cls": cls}
    for i, layer in enumerate(model.get_intermediate_layers(x, n=[1, 3], norm=False)):
        outputs[f"inter_list/{i}"] = layer
    loss = cotangent_loss(case, {"": model.train()(x, is_training=True)})
    compare(case, outputs | gradients(case, model, loss))


def run_head(case: Case) -> None:
    head = DINOHead(**case.meta["config"], device=case.device)
    head.init_weights()
    case.load_into(head)
    x = case.tensor("in/x").requires_grad_()
    outputs = {"out": head(x), "no_last": head(x, no_last_layer=True)}
    outputs["only_last"] = head(case.tensor("in/z"), only_last_layer=True)
    (outputs["out"] * case.tensor("in/cot")).sum().backward()
    assert x.grad is not None
    grads = {f"grad/{name}": p.grad for name, p in head.named_parameters() if p.grad is not None}
    compare(case, outputs | grads | {"grad/x": x.grad})


def run_init_stats(case: Case) -> None:
    """Mean, spread and extremes of the initial weights agree with the official ones within sampling error."""
    kinds: dict[str, Callable[..., Any]] = {"vit": DinoVisionTransformer, "convnext": ConvNeXt, "head": DINOHead}
    for name, entry in case.meta.items():
        draws: dict[str, list[Tensor]] = {}
        for seed in entry["seeds"]:
            module = kinds[entry["kind"]](**entry["config"])
            module.init_weights(torch.Generator().manual_seed(seed))
            for key, value in module.state_dict().items():
                draws.setdefault(key, []).append(value.float())
        if set(draws) != set(entry["params"]):
            case.failures.append(f"{name}: names differ: {sorted(set(draws) ^ set(entry['params']))}")
            continue
        for key, reference in entry["params"].items():
            case.checked += 1
            if problem := init_problem(torch.stack(draws[key]), *reference):
                case.failures.append(f"{name}.{key}: {problem}")


def init_problem(draws: Tensor, mean: float, std: float, low: float, high: float, numel: int) -> str | None:
    """What is wrong with ``draws`` [seeds, ...], or None. Both sides are samples, so errors are of sqrt(2) sigma."""
    if draws[0].numel() != numel:
        return f"{draws[0].numel()} numbers, expected {numel}"
    computed = bool((draws == draws[0]).all())  # the same for every seed: a constant or a buffer
    own_mean, own_std = float(draws.mean()), float(draws.flatten(1).std(dim=1).mean())
    if computed:
        expected = torch.tensor([mean, std, low, high])
        actual = torch.tensor([own_mean, own_std, float(draws.min()), float(draws.max())])
        return None if torch.allclose(actual, expected, rtol=1e-4, atol=1e-7) else f"{actual} is not {expected}"
    sigma = 5 * (2 / draws.numel()) ** 0.5
    if abs(own_mean - mean) > sigma * std or abs(own_std / std - 1) > sigma:
        return f"mean {own_mean:.3g} std {own_std:.3g}, expected {mean:.3g} and {std:.3g}"
    # an extreme of thousands of normal draws spreads by about a tenth; a uniform bound (2.1 std wide) by far less
    for own, expected_extreme in ((float(draws.min()), low), (float(draws.max()), high)):
        spread = 0.01 if abs(expected_extreme) < 2 * std else 0.35
        if abs(own / expected_extreme - 1) > spread:
            return f"extreme {own:.4g}, expected about {expected_extreme:.4g}"
    return None


def run_architectures(case: Case) -> None:
    """Names, order, shapes and dtypes of state dicts, parameter counts and configs of the released models and archs."""
    for name, entry in case.meta.items():
        case.checked += 1
        if name.startswith("arch_"):
            model: nn.Module = getattr(build, name.removeprefix("arch_"))(device="meta", **entry["config"])
            if any(getattr(model.config, key) != value for key, value in entry["dims"].items()):
                case.failures.append(f"{name}: other dimensions than {entry['dims']}")
        else:
            kind = ConvNeXtConfig if "depths" in entry["config"] else VitConfig
            if kind(**PRESETS[name]) != kind(**entry["config"]):
                case.failures.append(f"{name}: the preset's settings differ")
            model = build.build_preset(name, device="meta")
        own = [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in model.state_dict().items()]
        if own != entry["keys"]:
            wrong = [pair for pair in zip(own, entry["keys"], strict=False) if pair[0] != pair[1]][:3]
            case.failures.append(f"{name}: {len(own)} keys, expected {len(entry['keys'])}; first differences {wrong}")
        if sum(p.numel() for p in model.parameters()) != entry["n_parameters"]:
            case.failures.append(f"{name}: not {entry['n_parameters']} parameters")


RUNNERS: dict[str, Callable[[Case], None]] = {
    **{f"A{i:02d}": run_vit for i in range(1, 13)},
    **{f"A{i}": run_convnext for i in range(20, 23)},
    "A30": run_init_stats,
    "B01": run_head,
    "F01": run_architectures,
}
