"""What ``--method``, ``--amount`` and ``--budget`` say together."""

from __future__ import annotations

from collections.abc import Sequence

from dinov3.compress.energy import RULES
from dinov3.compress.errors import CompressError
from dinov3.compress.methods import ALIASES, CALIBRATED, METHODS, Settings, Step, energy_steps, equal_shares
from dinov3.models.backbone import Backbone


def methods_of(text: str) -> list[str]:
    """``heads,mlp,svd`` or one of the seeds' longer names; "none" for none. CompressError for an unknown name or order."""
    names = [ALIASES.get(name.strip(), name.strip()) for name in text.split(",")]
    if names == ["none"]:
        return []
    for name in names:
        if name not in METHODS:
            raise CompressError(f"--method {name!r}: choose from {sorted(METHODS)}, several with commas, or none")
    factorising = [i for i, name in enumerate(names) if name in ("svd", "whitened")]
    if factorising and any(name not in ("svd", "whitened") for name in names[factorising[0] :]):
        raise CompressError(
            f"--method {text}: svd and whitened come last: a factorised layer has no heads or neurons to remove"
        )
    return names


def amounts_of(text: str, methods: Sequence[str]) -> dict[str, float]:
    """``0.9`` for all, or ``heads=0.89,mlp=0.975``. CompressError for a name that is not asked for or no number."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        name = ALIASES.get(name.strip(), name.strip())
        try:
            number = float(value)
        except ValueError:
            raise CompressError(f"--amount {part!r}: not a number: give 0.9, or heads=0.89,mlp=0.975") from None
        if not 0.0 < number <= 1.0:
            raise CompressError(f"--amount {part}: above 0 and at most 1")
        if equals and name not in methods:
            raise CompressError(f"--amount {part}: {name} is not among --method {','.join(methods)}")
        if name in found:
            raise CompressError(f"--amount {part}: {name or 'the amount for all'} is given twice")
        found[name] = number
    if missing := [method for method in methods if method not in found and "" not in found]:
        raise CompressError(f"--amount {text}: says nothing of {missing[0]}: add {missing[0]}=…")
    return {method: found.get(method, found.get("", 1.0)) for method in methods}


def check_amounts(methods: Sequence[str], amount: str | None, budget: float | None) -> None:
    """CompressError unless ``methods`` have exactly one of ``amount`` and ``budget``, of a value that means something."""
    if not methods:
        if amount is not None or budget is not None:
            raise CompressError("--method none takes neither --amount nor --budget")
        return
    if (amount is None) == (budget is None):
        raise CompressError("give --amount (of each method) or --budget (of the whole model), one of them")
    if amount is not None:
        amounts_of(amount, methods)
        return
    assert budget is not None
    if not 0.0 < budget <= 1.0:
        raise CompressError(f"--budget {budget:g}: what is left of the whole, above 0 and at most 1")
    if len({method in CALIBRATED for method in methods}) > 1:
        raise CompressError(
            f"--budget: {','.join(methods)} mixes energy rules {RULES} with calibrated methods: use --amount"
        )


def steps_of(
    backbone: Backbone, methods: Sequence[str], amount: str | None, budget: float | None, settings: Settings
) -> list[Step]:
    """The steps. Exactly one of ``amount`` and ``budget`` is given; CompressError otherwise, or for one out of reach."""
    check_amounts(methods, amount, budget)
    if amount is not None:
        found = amounts_of(amount, methods)
        return [Step(method, found[method]) for method in methods]
    if budget is None:
        return []
    if methods[0] in CALIBRATED:
        return equal_shares(methods, budget)
    return energy_steps(backbone, methods, budget, settings)[0]
