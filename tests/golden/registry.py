"""Which function runs which kind of case (by the first letters of its name)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from tests.golden.case import Case

# Longest prefix wins. Each module has a table RUNNERS: prefix -> function of a Case.
MODULES = (
    *("cases_models", "cases_losses", "cases_optim", "cases_training", "cases_data"),
    *("cases_dense", "cases_compress", "cases_finetune", "cases_generate"),
)


def runner_for(case: Case) -> Callable[[Case], None]:
    """The function that runs this case."""
    table: dict[str, Callable[[Case], None]] = {}
    for module in MODULES:
        table |= import_module(f"tests.golden.{module}").RUNNERS
    name = case.path.name
    matching = [prefix for prefix in table if name.startswith(prefix)]
    if not matching:
        raise KeyError(f"no runner for {name}")
    return table[max(matching, key=len)]
