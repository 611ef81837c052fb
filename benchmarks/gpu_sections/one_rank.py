"""A process group of one: NCCL's barrier and objects, FSDP2 with compilation and checkpointing, a sharded snapshot.

``python -m benchmarks.gpu_sections.one_rank SETTINGS``: a group that hangs or aborts must not take others with it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.gpu_sections.losses import relative
from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import Report, Row, SectionReport, device_of, full_environment
from benchmarks.gpu_sections.vit import TOLERANCE as COMPILED_TOLERANCE
from benchmarks.gpu_sections.vit import forward_backward, inputs, model_on
from dinov3.distributed import context
from dinov3.distributed.collectives import all_reduce_max, all_reduce_sum, broadcast_object, gather_objects
from dinov3.distributed.parallel import Parallel
from dinov3.distributed.shard import compile_forward, local, shard, whole
from dinov3.models.backbone import Backbone
from dinov3.models.checkpointing import CheckpointedBlock
from dinov3.runs.snapshot import Snapshot

TOLERANCE = 1e-5


def main() -> None:
    settings = Settings.from_json(sys.argv[1])
    device = device_of(settings.device)
    report = SectionReport(Report(Path(settings.out), full_environment(settings.device)), "F", settings.device, 60)
    with report.item(f"process group of one: {context.backend_of(device)}") as row:
        row |= group(settings, device)
    for checkpointed, compiled in ((False, False), (True, False), (True, True)):
        if compiled and settings.tiny:
            continue
        with report.item(f"FSDP2{', checkpointing' if checkpointed else ''}{', compiled' if compiled else ''}") as row:
            row |= sharded(settings, device, checkpointed=checkpointed, compiled=compiled)
    with report.item("snapshot of sharded tensors") as row:
        model = shards(settings, device, checkpointed=False, compiled=False)
        state: dict[str, Tensor] = dict(model.state_dict())
        copies = Snapshot().take(state)
        row["passed"] = all(torch.equal(local(copies[k]), local(v).cpu()) for k, v in state.items())
    dist.destroy_process_group()


def group(settings: Settings, device: torch.device) -> Row:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = settings.scratch / "one-rank-store"
    dist.init_process_group(context.backend_of(device), init_method=f"file://{store}", rank=0, world_size=1)
    context.barrier()
    x = torch.arange(3.0, device=device)
    objects = (broadcast_object({"a": 1}) == {"a": 1}) and (gather_objects([2]) == [[2]])
    numbers = torch.equal(all_reduce_sum(x), x) and torch.equal(all_reduce_max(x), x)
    return {"objects": objects, "numbers": numbers, "passed": objects and numbers}


def shards(settings: Settings, device: torch.device, *, checkpointed: bool, compiled: bool) -> Backbone:
    """The model of section D as FSDP2 holds it, in fp32."""
    model = model_on(settings, device)
    blocks: list[Any] = [part for part in model.modules() if isinstance(part, CheckpointedBlock)]
    if checkpointed:
        model.set_checkpointing("selective")
    if compiled:
        for block in blocks:
            compile_forward(block)
    parallel = Parallel("FULL_SHARD", "the check says so", torch.float32, torch.float32, device.type, 1)
    shard(model, blocks, parallel, trains=True)
    return model


def sharded(settings: Settings, device: torch.device, *, checkpointed: bool, compiled: bool) -> Row:
    """Features and gradients beside those of the model without FSDP2."""
    crops = inputs(settings, device)
    plain = model_on(settings, device)
    expected = forward_backward(plain, crops)
    model = shards(settings, device, checkpointed=checkpointed, compiled=compiled)
    found = forward_backward(model, crops)
    errors = {name: relative(value, expected[name]) for name, value in found.items()}
    ours = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    names = set(ours) == set(theirs)
    errors["gradient"] = relative(
        torch.cat([ours[n].flatten() for n in theirs]), torch.cat([g.flatten() for g in theirs.values()])
    )
    tolerance = COMPILED_TOLERANCE["fp32"] if compiled else TOLERANCE
    return {
        "errors": errors,
        "names": names,
        "tolerance": tolerance,
        "passed": names and max(errors.values()) <= tolerance,
    }


if __name__ == "__main__":
    main()
