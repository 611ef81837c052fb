"""Golden cases of LoRA (G03 a backbone, G04 single layers, G05 counts) and of metrics (G06)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dinov3.finetune.measures.bootstrap import bootstrap
from dinov3.finetune.measures.calibration import fit_temperature
from dinov3.finetune.measures.metrics import BINARY, binary_metrics, calibration_bins, expected_calibration_error
from dinov3.models.lora import LowRank, RowBlocks, adapters_of, add_lora, merge_lora, unmerge_lora
from dinov3.models.vit import DinoVisionTransformer
from dinov3.models.vit_config import QKV
from dinov3.weights.names.recognition import ffn_ratio
from dinov3.weights.parity import tokens_of
from tests.golden.case import Case
from tests.golden.cases_compress import close, expect, stored_vit


def last_name(module: str) -> str:
    """``blocks.0.attn.qkv[k]`` -> ``k``, ``mlp.fc1`` -> ``fc1``."""
    return module.rpartition(".")[2].partition("[")[2].rstrip("]") or module.rpartition(".")[2]


def adapters_by_golden_name(model: nn.Module) -> dict[str, LowRank]:
    found: dict[str, LowRank] = {}
    for name, adapter in adapters_of(model).items():
        if isinstance(adapter, RowBlocks):
            found |= {f"{name}[{part}]": adapter[part] for part in adapter}  # type: ignore[misc]
        else:
            found[name] = adapter
    return found


def run_lora(case: Case) -> None:
    config = case.meta["config"]
    model, x, target = stored_vit(case), case.tensor("in/x"), case.tensor("in/target")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    case.check("tokens/base", tokens_of(model, x))
    trained = add_lora(
        model,
        sorted({last_name(name) for name in config["targets"]}),
        config["r"],
        config["alpha"],
        torch.Generator(device=case.device).manual_seed(0),
        rslora=bool(config.get("use_rslora", False)),
    )
    expect(case, "trainable_parameters", trained, case.meta["trainable_parameters"])
    adapters = adapters_by_golden_name(model)
    stored = {k.split("/", 1)[1].rpartition(".")[0] for k in case.arrays if k.startswith("lora/")}
    expect(case, "adapters", sorted(adapters), sorted(stored))
    for name, adapter in adapters.items():
        close(case, f"{name} scale", adapter.scale, config["scale"], 1e-12)
        with torch.no_grad():
            adapter.a.copy_(case.tensor(f"lora/{name}.A"))
        case.seen.add(f"lora/{name}.A")
    plain, adapted = _with_and_without(model, before, x)
    # a layer with an adapter has no LayerScale folded into it, as the one without has in the fused form
    equal = (
        torch.allclose(plain, adapted, rtol=1e-5, atol=1e-6) if model.execution.fused else torch.equal(plain, adapted)
    )
    expect(case, "B = 0: the output is that of the weights alone", equal, True)
    _gradients(case, model, adapters, x, target, "B_zero")
    for name, adapter in adapters.items():
        with torch.no_grad():
            adapter.b.copy_(case.tensor(f"lora/{name}.B"))
        case.seen.add(f"lora/{name}.B")
    _gradients(case, model, adapters, x, target, "B_random")
    case.check("tokens/adapted", tokens_of(model, x))
    merge_lora(model)
    case.check("tokens/merged", tokens_of(model, x))
    for key in [k for k in case.arrays if k.startswith("merged/")]:
        case.check(key, model.get_parameter(key.removeprefix("merged/")))
    unmerge_lora(model)
    same = all(torch.equal(model.get_parameter(name), value) for name, value in before.items())
    expect(case, "unmerged weights are bit-equal", same, True)
    case.fail_if_unchecked()


def _with_and_without(model: DinoVisionTransformer, before: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    plain = DinoVisionTransformer(**{f: getattr(model.config, f) for f in model.config.__dataclass_fields__})
    state = {k: v for k, v in model.state_dict().items() if "lora" not in k.split(".")}
    plain.to(x.device).load_state_dict({**state, **before})
    return tokens_of(plain.eval(), x), tokens_of(model, x)


def _gradients(
    case: Case, model: nn.Module, adapters: dict[str, LowRank], x: Tensor, target: Tensor, stage: str
) -> None:
    """Gradients of mean((tokens - target)^2)."""
    model.zero_grad()
    features: Any = model(x, is_training=True)
    tokens = torch.cat([features.cls[:, None], features.storage, features.patches], dim=1)
    (tokens - target).square().mean().backward()
    for name, adapter in adapters.items():
        for side, parameter in (("A", adapter.a), ("B", adapter.b)):
            assert parameter.grad is not None
            if (key := f"grad/{stage}/{name}.{side}") in case.arrays:
                case.check(key, parameter.grad)
        if stage == "B_zero":
            expect(case, f"{name}: A has no gradient at B = 0", bool(torch.any(adapter.a.grad)), False)  # type: ignore[arg-type]


def run_lora_linear(case: Case) -> None:
    for i, combo in enumerate(case.meta["config"]["combos"]):
        layer = nn.ModuleDict({"fc": nn.Linear(combo["in"], combo["out"], bias=combo["bias"], device=case.device)})
        fc: Any = layer["fc"]
        fc.load_state_dict(
            {"weight": case.tensor(f"{i}/W")} | ({"bias": case.tensor(f"{i}/b")} if combo["bias"] else {})
        )
        add_lora(layer, ["fc"], combo["r"], combo["alpha"], None, rslora=bool(combo.get("use_rslora", False)))
        with torch.no_grad():
            fc.lora.a.copy_(case.tensor(f"{i}/A"))
            fc.lora.b.copy_(case.tensor(f"{i}/B"))
        y = fc(case.tensor(f"{i}/x"))
        case.check(f"{i}/scale", np.float64(fc.lora.scale))
        case.check(f"{i}/y", y)
        (y - case.tensor(f"{i}/target")).square().mean().backward()
        case.check(f"grad/{i}/A", fc.lora.a.grad)
        case.check(f"grad/{i}/B", fc.lora.b.grad)
        merge_lora(layer)
        case.check(f"{i}/W_merged", fc.weight)
        unmerge_lora(layer)
        expect(case, f"{i} unmerged", bool(torch.equal(fc.weight, case.tensor(f"{i}/W"))), True)
        case.seen |= {f"{i}/{key}" for key in ("W", "b", "x", "target", "A", "B")}
    case.fail_if_unchecked()


def run_lora_counts(case: Case) -> None:
    for row in case.meta["rows"]:
        dims, gated = row["dims"], bool(row["dims"].get("use_gated_mlp", False))
        ffn = "swiglu" if gated else "mlp"
        ours = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "proj"}
        ours |= (
            {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"} if gated else {"up_proj": "fc1", "down_proj": "fc2"}
        )
        targets = [ours[name] for name in row["targets"]]
        rests = [t for t in targets if t not in QKV]
        for wanted, chosen in ((row["trainable"], targets), (row["if_qkv_were_one_adapter"], ["qkv", *rests])):
            if wanted is None:
                continue
            model = DinoVisionTransformer(
                embed_dim=dims["hidden_size"],
                depth=dims["num_hidden_layers"],
                num_heads=dims["num_attention_heads"],
                ffn_layer=ffn,
                ffn_ratio=ffn_ratio(dims["hidden_size"], dims["intermediate_size"], ffn),
                device="meta",
            )
            expect(case, f"{row['arch']} {chosen}", add_lora(model, chosen, row["r"], 16.0, None), wanted)


def run_metrics(case: Case) -> None:
    names = case.meta["config"]["metrics"]
    assert tuple(names) == tuple(BINARY), names
    bins = case.meta["config"]["ece_bins"]
    sets = sorted(key.rpartition("/")[0] for key in case.arrays if key.endswith("/p"))
    for name in sets:
        p, y = case.arrays[f"{name}/p"], case.arrays[f"{name}/y"]
        found = binary_metrics(p, y, bins=bins, specificity=case.meta["config"]["target_specificity"])
        case.check(f"{name}/metrics", np.array([found[m] for m in names]))
        case.check(f"{name}/ece_bins", calibration_bins(p, y, bins=bins))
        case.seen |= {f"{name}/p", f"{name}/y"}
        _against_the_reference(case, name, found)
        if (key := f"torchmetrics/{name}") in case.arrays:
            case.check(key, np.array([_bins_of_p(p, y, bins), expected_calibration_error(p, y, bins=bins)]))
    for name, settings in case.meta["bootstrap"]["cases"].items():
        _bootstrap(case, name, settings, names)
    for name, wanted in case.meta["temperature"]["cases"].items():
        _temperature(case, name, wanted, bins)
    case.fail_if_unchecked()


def _against_the_reference(case: Case, name: str, found: dict[str, float]) -> None:
    """The seed's own code: equal to ours but where the file says that it is wrong."""
    key = f"reference/{name}"
    if key not in case.arrays:
        return
    theirs = dict(zip(case.meta["config"]["metrics"], case.arrays[key], strict=True))
    differs = case.meta["reference_differs"].get(name, {})
    for metric, value in theirs.items():
        if metric in differs:
            close(case, f"{name} {metric} ours", found[metric], differs[metric][0], 1e-9)
            close(case, f"{name} {metric} reference", float(value), differs[metric][1], 1e-9)
        elif not np.isnan(value):
            case.checked += 1
            if abs(found[metric] - value) > 1e-6:
                case.failures.append(f"{name} {metric}: {found[metric]}, the reference has {value}")
    case.seen.add(key)


def _bins_of_p(p: np.ndarray, y: np.ndarray, bins: int) -> float:
    """What torchmetrics' binary calibration error bins: P(y = 1) against the label. Not the project's measure."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(torch.from_numpy(p), edges, right=True) - 1).numpy()  # p = 1 is a bin of its own there
    rows = [place == b for b in range(bins + 1) if (place == b).any()]
    return float(sum(row.mean() * abs(y[row].mean() - p[row].mean()) for row in rows))


def _bootstrap(case: Case, name: str, settings: dict[str, Any], names: list[str]) -> None:
    p, y = case.arrays[f"{name}/p"], case.arrays[f"{name}/y"]
    found = bootstrap(p, y, resamples=settings["n_boot"], seed=settings["seed"], level=settings["level"])
    case.check(f"bootstrap/{name}/ci", np.array([[found[m].low, found[m].high] for m in names]))
    case.check(f"bootstrap/{name}/mean_std", np.array([[found[m].mean, found[m].std] for m in names]))
    rows = np.random.default_rng(settings["seed"]).integers(0, len(p), size=(settings["n_boot"], len(p)))
    expect(case, f"{name} first rows", rows[: len(settings["first_rows"])].tolist(), settings["first_rows"])
    expect(case, f"{name} nan_resamples", found["AUROC"].undefined, settings["nan_resamples"])


def _temperature(case: Case, name: str, wanted: dict[str, Any], bins: int) -> None:
    z, y = case.arrays[f"temperature/{name}/z"], case.arrays[f"temperature/{name}/y"]
    logits = np.stack([np.zeros_like(z), z], axis=1)
    fit = fit_temperature(logits, y)
    close(case, f"{name} T", fit.temperature, wanted["T"], 1e-4)
    expect(case, f"{name} at_bound", fit.at_bound, wanted["at_bound"])
    case.check(f"temperature/{name}/T", np.float64(fit.temperature))
    for when, temperature in (("before", 1.0), ("after", fit.temperature)):
        p = 1 / (1 + np.exp(-z / temperature))
        scores = binary_metrics(p, y, bins=bins)
        key = f"temperature/{name}/{when}"
        ece = float(case.arrays[key][1])
        if abs(scores["ECE"] - ece) > 1e-3:  # a sample may change its bin when T moves by 1e-4
            case.failures.append(f"{key} ECE {scores['ECE']}, expected {ece}")
        case.check(key, np.array([scores["NLL"], ece, scores["Brier"]]))
    case.seen |= {f"temperature/{name}/{part}" for part in "zy"}


RUNNERS: dict[str, Callable[[Case], None]] = {
    "G03": run_lora,
    "G04": run_lora_linear,
    "G05": run_lora_counts,
    "G06": run_metrics,
}
