"""Golden cases of the losses: B02 DINO, B03 iBOT, B04 KoLeo, B05 Gram, B10 two processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dinov3.losses import sinkhorn
from dinov3.losses.cross_entropy import (
    dino_cross_entropy,
    dino_cross_entropy_plain,
    ibot_cross_entropy,
    ibot_cross_entropy_plain,
)
from dinov3.losses.gram import gram_loss, negatives_rule
from dinov3.losses.koleo import koleo, koleo_distributed
from tests.distributed.processes import run_processes
from tests.golden.case import Case, Skip

TARGET_TEMP = 0.05  # of the softmax that made every teacher probability of B02 and B03


class Checks:
    """``case.check`` that remembers its keys, so that ``done`` can name the outputs nobody looked at."""

    def __init__(self, case: Case) -> None:
        self.case, self.seen = case, set[str]()

    def __call__(self, key: str, value: Any) -> None:
        self.seen.add(key)
        self.case.check(key, value)

    def done(self) -> None:
        outputs = {key for key in self.case.arrays.files if not key.startswith("in/")}
        self.case.failures += [f"{key}: never checked" for key in sorted(outputs - self.seen)]


def with_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Value of ``loss(x)`` and its gradient."""
    x = x.clone().requires_grad_()
    value = loss(x)
    value.backward()
    assert x.grad is not None
    return value, x.grad


def run_dino(case: Case) -> None:
    check = Checks(case)
    for i, row in enumerate(case.meta["config"]["forward"]):
        student, logits = case.tensor(f"in/fwd{i}/s"), case.tensor(f"in/fwd{i}/t_logits")
        for loss, grad in dino_forms(student, logits, row["student_temp"], row["ignore_diagonal"]):
            check(f"fwd{i}/loss", loss)
            check(f"grad/fwd{i}", grad)
    for i, row in enumerate(case.meta["config"]["sinkhorn"]):
        check_sinkhorn(check, f"sk{i}", case.tensor(f"in/sk{i}") * 0.3, row)
    check_center(case, check)
    check.done()


def dino_forms(student: Tensor, logits: Tensor, temp: float, ignore_diagonal: bool) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradient of the fused and of the plain form."""
    targets, dense = sinkhorn.softmax_targets(logits, TARGET_TEMP), torch.softmax(logits / TARGET_TEMP, dim=-1)
    return [
        with_gradient(lambda x: dino_cross_entropy(x, targets, temp, ignore_diagonal=ignore_diagonal), student),
        with_gradient(lambda x: dino_cross_entropy_plain(x, dense, temp, ignore_diagonal=ignore_diagonal), student),
    ]


def check_sinkhorn(check: Checks, key: str, logits: Tensor, row: dict[str, Any], n_rows: Tensor | None = None) -> None:
    temp, n = row["teacher_temp"], row["n_iterations"]
    check(key, sinkhorn.sinkhorn_knopp(logits, temp, n_rows=n_rows, n_iterations=n))
    if n:  # without an iteration there is nothing to factorise
        check(key, sinkhorn.sinkhorn_targets(logits, temp, n_iterations=n).dense())


def check_center(case: Case, check: Checks) -> None:
    """The update of one step is applied by the softmax of the next."""
    settings = case.meta["config"]["center"]
    center, seen = case.tensor("in/center/c0"), None
    for j in range(settings["steps"]):
        logits = case.tensor(f"in/center/t{j}")
        if seen is not None:
            center = sinkhorn.center_update(center, seen, settings["momentum"])
        check(f"center/c{j}", center)
        check(f"center/probs{j}", sinkhorn.softmax_center(logits, center, settings["temp"]))
        check(f"center/probs{j}", sinkhorn.softmax_targets(logits, settings["temp"], center).dense())
        seen = logits


def run_ibot(case: Case) -> None:
    check = Checks(case)
    for i, (row, counts) in enumerate(zip(case.meta["config"]["forward_masked"], case.meta["fm_n"], strict=True)):
        masks, temp = case.tensor(f"in/fm{i}/masks"), row.get("student_temp", 0.1)
        if counts["masks_weight"] == "None":
            weight = one_over_masked(masks)
        else:
            weight = case.tensor(counts["masks_weight"])
        student, logits = case.tensor(f"in/fm{i}/s"), case.tensor(f"in/fm{i}/t_logits")
        for loss, grad in ibot_forms(student, logits, weight, len(masks), temp):
            check(f"fm{i}/loss", loss)
            check(f"grad/fm{i}", grad)
        student, logits = case.tensor(f"in/full{i}/s"), case.tensor(f"in/full{i}/t_logits")
        for loss, grad in ibot_forms(student, logits, one_over_masked(masks), len(masks), temp, masks):
            check(f"full{i}/loss", loss)
            check(f"grad/full{i}", grad)
    for i, row in enumerate(case.meta["config"]["sinkhorn"]):
        check_sinkhorn(
            check, f"sk{i}", case.tensor(f"in/sk{i}") * 0.3, row, torch.full((1,), row["n"], device=case.device)
        )
    check_center(case, check)
    check.done()


def one_over_masked(masks: Tensor) -> Tensor:
    """Weight of each masked token: 1 / masked tokens of its image. ``[N, P] -> [M]``"""
    return (1 / masks.sum(-1, keepdim=True).clamp_min(1)).expand_as(masks)[masks]


def ibot_forms(
    student: Tensor, logits: Tensor, weight: Tensor, n_images: int, temp: float, masks: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradient of the fused and of the plain form; ``masks`` picks the rows when it is given."""
    picked = slice(None) if masks is None else masks
    targets = sinkhorn.softmax_targets(logits[picked], TARGET_TEMP)
    dense = torch.softmax(logits / TARGET_TEMP, dim=-1)[picked]
    return [
        with_gradient(lambda x: ibot_cross_entropy(x[picked], targets, weight, n_images, temp), student),
        with_gradient(lambda x: ibot_cross_entropy_plain(x[picked], dense, weight, n_images, temp), student),
    ]


def run_koleo(case: Case) -> None:
    check = Checks(case)
    for i, row in enumerate(case.meta["config"]["items"]):
        x = case.tensor(f"in/{i}") + row.get("offset", 0.0)
        if row["topk"] == 0:
            loss, grad = with_gradient(koleo, x)
        else:
            settings = row["topk"], row.get("loss_group_size")
            loss, grad = with_gradient(lambda x: koleo_distributed(x, *settings), x)  # noqa: B023
        check(f"{i}/loss", loss)
        check(f"grad/{i}", grad)
    check.done()


def run_gram(case: Case) -> None:
    check = Checks(case)
    student, teacher = case.tensor("in/s"), case.tensor("in/t")
    for i, row in enumerate(case.meta["config"]["combos"]):
        flat = row["ndim"] == 2
        options: dict[str, Any] = {
            "normalize": row["apply_norm"],
            "img_level": row["img_level"],
            "negatives": negatives_rule(row["remove_neg"], row["remove_only_teacher_neg"]),
        }
        s, t = (x.flatten(0, 1) if flat else x for x in (student, teacher))
        loss, grad = with_gradient(lambda s: gram_loss(s, t, **options), s)  # noqa: B023
        check(f"{i}/loss", loss)
        check(f"grad/{i}", grad.view_as(student))
    check.done()


def run_two_processes(case: Case) -> None:
    if case.device.type != "cpu":
        raise Skip("two processes over gloo, whose tensors are on the CPU")
    check = Checks(case)
    with tempfile.TemporaryDirectory() as folder:
        run_processes(_one_of_two, (case.path, Path(folder)), 2)
        for rank in range(2):
            for key, value in torch.load(Path(folder) / f"{rank}.pt").items():
                check(key, value)
    check.done()


def _one_of_two(rank: int, path: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.save(_outputs_of(rank, Case(path)), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def _outputs_of(rank: int, case: Case) -> dict[str, Tensor]:
    settings, out = case.meta["config"], {}
    temp = settings["temp"]
    for name in ("dino_sk", "ibot_sk"):
        logits = case.tensor(f"in/rank{rank}/{name}")
        dense = sinkhorn.sinkhorn_knopp(logits, temp)
        factorised = sinkhorn.sinkhorn_targets(logits, temp).dense()
        np.testing.assert_allclose(factorised.numpy(), dense.numpy(), rtol=1e-4, atol=1e-7)
        out[f"rank{rank}/{name}/out"] = factorised
    for topk, group in settings["koleo"]:
        name = f"rank{rank}/koleo_top{topk}_group{group}"
        loss, grad = with_gradient(lambda x: koleo_distributed(x, topk, group), case.tensor(f"in/{name}"))  # noqa: B023
        out |= {f"{name}/loss": loss.detach(), f"grad/{name}": grad}
    logits = case.tensor(f"in/rank{rank}/center")
    center = sinkhorn.center_update(torch.zeros(1, logits.shape[1]), logits)
    out[f"rank{rank}/center/center"] = center
    out[f"rank{rank}/center/probs"] = sinkhorn.softmax_center(logits, center, temp)
    return out


RUNNERS: dict[str, Callable[[Case], None]] = {
    "B02": run_dino,
    "B03": run_ibot,
    "B04": run_koleo,
    "B05": run_gram,
    "B10": run_two_processes,
}
