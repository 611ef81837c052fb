"""Golden cases of compression (G01, G02) and of 8-bit weights (G17, G18)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dinov3.compress.energy import Cut, prune
from dinov3.compress.quantize import quantized
from dinov3.compress.selection import rank_by_energy
from dinov3.compress.surgery import blocks_of, head_energies, neuron_energies, rebuilt
from dinov3.models.int8 import Int8Linear, make_int8
from dinov3.models.shapes import SplitQkv, ffn_names
from dinov3.models.vit import DinoVisionTransformer
from dinov3.models.vit_config import QKV
from dinov3.weights.parity import tokens_of
from tests.golden.case import Case

INT8_ENTRIES_OFF = 0.01  # share of entries that may differ by 1: where w / scale is within rounding of a half


def expect(case: Case, what: str, found: Any, wanted: Any) -> None:
    """A number or list of the JSON file."""
    case.checked += 1
    if found != wanted:
        case.failures.append(f"{what}: {found}, expected {wanted}")


def close(case: Case, what: str, found: float, wanted: float, rel: float) -> None:
    case.checked += 1
    if not abs(found - wanted) <= rel * max(abs(wanted), 1e-12):
        case.failures.append(f"{what}: {found}, expected {wanted}")


def stored_vit(case: Case) -> DinoVisionTransformer:
    """The backbone of a downstream case: its weights lie in the file, under official names."""
    model = DinoVisionTransformer(**case.meta["config"]["constructor"], device=case.device)
    state = {key.removeprefix("sd/"): case.tensor(key) for key in case.arrays if key.startswith("sd/")}
    model.init_weights()  # buffers that are computed
    own = set(model.state_dict())
    if set(state) - own or (own - set(state)) - {"rope_embed.periods"}:
        raise KeyError(f"names differ: {sorted(set(state) ^ own)[:6]}")
    model.load_state_dict({**model.state_dict(), **state}, strict=True)
    case.seen |= {f"sd/{key}" for key in state}
    return model.eval()


def reference_parameters(model: torch.nn.Module) -> int:
    """Parameters in the reference's layout, whose keys have no bias."""
    total = sum(p.numel() for p in model.parameters())
    for block in blocks_of(model):  # type: ignore[arg-type]
        qkv: Any = block.attn.qkv
        bias = qkv.k.bias if isinstance(qkv, SplitQkv) and isinstance(qkv.k, torch.nn.Linear) else None
        if isinstance(qkv, SplitQkv) and not isinstance(qkv.k, torch.nn.Linear):
            bias = qkv.k.second.bias
        total -= bias.numel() if bias is not None else 0
        if not isinstance(qkv, SplitQkv) and qkv.bias is not None:
            total -= qkv.bias.numel() // 3
    return total


def run_compress(case: Case) -> None:
    model = stored_vit(case)
    x = case.tensor("in/x")
    case.check("tokens/base", tokens_of(model, x))
    expect(case, "params_unpruned", reference_parameters(model), case.meta["params_unpruned"]["ref"])
    if (official := case.meta["params_unpruned"].get("official_parameters")) is not None:
        expect(case, "official_parameters", sum(p.numel() for p in model.parameters()), official)
    for index, block in enumerate(blocks_of(model)):
        case.check(f"energy/heads/{index}", head_energies(block))
        case.check(f"energy/neurons/{index}", neuron_energies(block))
        ranks = case.meta.get("fused_qkv_rank_rule_info", {}).get(f"blocks.{index}.attn.qkv", {})
        for tau, rank in ranks.items():
            found = rank_by_energy(block.attn.qkv.weight.detach(), float(tau))
            expect(case, f"fused rank {index} {tau}", found, rank)
    for name, result in case.meta["results"].items():
        _result(case, model, x, name, result)
    case.fail_if_unchecked()


def _result(case: Case, model: DinoVisionTransformer, x: Tensor, name: str, result: dict[str, Any]) -> None:
    before = sum(p.numel() for p in model.parameters())
    pruned = copy.deepcopy(model)
    kept: dict[str, list[list[int]]] = {}
    layers: dict[str, Cut] = {}
    for number, (rule, tau) in enumerate(result["steps"], start=1):
        cuts = prune(pruned, rule, float(tau))
        if rule == "svd":
            layers = {_layer(cut): cut for cut in cuts}
            continue
        whole = kept.get(rule, [list(range(cut.before)) for cut in cuts])  # in the numbering of the first step
        kept[rule] = [[old[i] for i in cut.kept or ()] for old, cut in zip(whole, cuts, strict=True)]
        if f"after_{number}" in result:
            expect(case, f"{name} after_{number}", kept[rule], result[f"after_{number}"])
    for key, rule in (("heads_kept", "heads"), ("neurons_kept", "mlp")):
        if key in result:
            expect(case, f"{name} {key}", kept.get(rule), result[key])
    for key, wanted in result.get("layers", {}).items():
        cut = layers[key]
        expect(case, f"{name} {key}", (cut.after, cut.replaced), (wanted["rank_rule"], wanted["replaced"]))
        if cut.lost is not None:
            close(case, f"{name} {key} lost", cut.lost, wanted["err2_over_norm2"], 1e-4)
    if layers:
        expect(case, f"{name} layers", sorted(layers), sorted(result["layers"]))
    expect(case, f"{name} params", reference_parameters(pruned), result["params"])
    if all(float(tau) == 1.0 for _, tau in result["steps"]):
        expect(case, f"{name}: changed at tau 1", before - sum(p.numel() for p in pruned.parameters()), 0)
    again = rebuilt(pruned)
    for key in [k for k in case.arrays if k.startswith(f"pruned/{name}/")]:
        case.check(key, again.state_dict()[key.removeprefix(f"pruned/{name}/")])
    case.check(f"tokens/{name}", tokens_of(again, x))


def _layer(cut: Cut) -> str:
    """The golden name of a matrix."""
    if cut.what in QKV:
        return f"blocks.{cut.block}.attn.qkv[{cut.what}]"
    return f"blocks.{cut.block}.{'attn' if cut.what == 'proj' else 'mlp'}.{cut.what}"


def run_int8(case: Case) -> None:
    model = stored_vit(case)
    x = case.tensor("in/x")
    case.check("tokens/float32", tokens_of(model, x))
    for kind in ("weight_only", "dynamic"):
        if f"tokens/{kind}" not in case.arrays and f"linear/{kind}_y" not in case.arrays:
            continue
        small = quantized(model, kind)
        case.check(f"tokens/{kind}", tokens_of(small, x))
        _blocks(case, kind, model, small, x)
        _first_up(case, kind, small)
        if f"linear/{kind}_y" in case.arrays:
            _one_linear(case, kind)
        _sizes(case, model, quantized(model, kind), kind)
    case.seen |= {"linear/x", "linear/weight", "linear/bias"}  # inputs
    case.fail_if_unchecked()


def _block_outputs(model: Any, x: Tensor) -> list[Tensor]:
    """[N, T, D] after each block, without the last norm."""
    found = []
    with torch.no_grad():
        layers = model.get_intermediate_layers(
            x, n=list(range(model.n_blocks)), return_class_token=True, return_extra_tokens=True, norm=False
        )
    for patches, cls, storage in layers:
        found.append(torch.cat([cls[:, None], storage, patches], dim=1))
    return found


def _blocks(case: Case, kind: str, model: Any, small: Any, x: Tensor) -> None:
    exact, rounded = _block_outputs(model, x), _block_outputs(small, x)
    for index, tokens in enumerate(rounded):
        if (key := f"layer/{kind}/{index}") in case.arrays:
            case.check(key, tokens)
    for index, wanted in enumerate(case.meta["report"][kind]["cosine_per_block_mean_min"]):
        cosine = torch.cosine_similarity(exact[index].double(), rounded[index].double(), dim=-1)
        # 1 - cosine is quadratic in a distance that roundings move by a few tenths
        for what, found, stored in zip(("mean", "min"), (cosine.mean(), cosine.min()), wanted, strict=True):
            case.checked += 1
            if abs(float(found) - stored) > 0.5 * (1 - stored):
                case.failures.append(f"{kind} block {index} {what} cosine {float(found)}, expected {stored}")


def _first_up(case: Case, kind: str, small: Any) -> None:
    if f"int8/{kind}/qdata" not in case.arrays:
        return
    mlp = small.blocks[0].mlp
    up = getattr(mlp, ffn_names(mlp)[-2])
    _check_integers(case, f"int8/{kind}/qdata", up.weight)
    case.check(f"int8/{kind}/scale", up.scale)


def _one_linear(case: Case, kind: str) -> None:
    state = {key: case.tensor(f"linear/{key}") for key in ("weight", "bias") if f"linear/{key}" in case.arrays}
    layer = torch.nn.Linear(*state["weight"].shape[::-1], bias="bias" in state, device=case.device)
    layer.load_state_dict(state)
    holder = torch.nn.ModuleDict({"layer": layer})
    make_int8(holder, kind)
    made: Any = holder["layer"]
    assert isinstance(made, Int8Linear)
    _check_integers(case, f"linear/{kind}_qdata", made.weight)
    case.check(f"linear/{kind}_scale", made.scale)
    case.check(f"linear/{kind}_y", made(case.tensor("linear/x")))


def _check_integers(case: Case, key: str, found: Tensor) -> None:
    """Entries may differ by 1 where a quotient is within rounding of a half."""
    case.checked += 1
    case.seen.add(key)
    off = (found.int() - case.tensor(key).int()).abs()
    if int(off.max()) > 1 or float((off > 0).float().mean()) > INT8_ENTRIES_OFF:
        case.failures.append(f"{key}: {int((off > 0).sum())} entries differ, by at most {int(off.max())}")


def _sizes(case: Case, model: Any, small: Any, kind: str) -> None:
    report = case.meta["report"]
    layers = [m for m in small.modules() if isinstance(m, Int8Linear)]
    # the reference has q, k and v apart: its one fused layer counts as three
    number = sum(3 if layer is block.attn.qkv else 1 for block in small.blocks for layer in _int8(block))
    weights, rows = sum(m.weight.numel() for m in layers), sum(m.out_features for m in layers)
    parameters = reference_parameters(model)
    expect(case, f"{kind} quantised_linears", number, report[kind]["quantised_linears"])
    expect(case, f"{kind} linear_weights", weights, report["linear_weights"])
    expect(case, f"{kind} linear_output_rows", rows, report["linear_output_rows"])
    expect(case, f"{kind} other_parameters", parameters - weights, report["other_parameters"])
    expect(
        case,
        f"{kind} bytes_int8_formula",
        weights + 4 * rows + 4 * (parameters - weights),
        report["bytes_int8_formula"],
    )
    expect(case, f"{kind} bytes_float32", 4 * parameters, report["bytes_float32"])


def _int8(block: Any) -> list[Int8Linear]:
    return [module for module in block.modules() if isinstance(module, Int8Linear)]


RUNNERS: dict[str, Callable[[Case], None]] = {
    "G01": run_compress,
    "G02": run_compress,
    "G17": run_int8,
    "G18": run_int8,
}
