from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dinov3.config.schema import OptimConfig
from dinov3.engine.optim import (
    apply_schedules,
    build_optimizer,
    clip_per_submodule,
    ema_update,
    parameter_groups,
    parameter_rows,
)
from tests.distributed.processes import run_processes

OPTIONS = {"lr_decay_rate": 0.5, "patch_embed_lr_mult": 0.2, "dino_head_wd_multiplier": 0.3}


class TinyViT(nn.Module):
    """A backbone's parameter names, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.patch_embed = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(
            [nn.ModuleDict({"norm1": nn.LayerNorm(4), "fc": nn.Linear(4, 4)}) for _ in range(2)]
        )
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.cls_token[0]
        for block in self.blocks:
            x = x + block["fc"](block["norm1"](x))  # type: ignore[index]
        return self.norm(x)


def student() -> nn.ModuleDict:
    torch.manual_seed(0)
    head = nn.ModuleDict({"mlp": nn.Linear(4, 4), "last_layer": nn.Linear(4, 6, bias=False)})
    return nn.ModuleDict({"backbone": TinyViT(), "dino_head": head})


def multipliers(module: nn.Module) -> dict[str, tuple[float, float, bool]]:
    rows = parameter_rows(module, **OPTIONS)
    return {row.name: (row.lr_multiplier, row.wd_multiplier, row.is_last_layer) for row in rows}


def test_each_block_learns_slower_than_the_next() -> None:
    lr = {name: values[0] for name, values in multipliers(TinyViT()).items()}
    assert lr["norm.weight"] == 1
    assert lr["blocks.1.fc.weight"] == 0.5
    assert lr["blocks.0.norm1.bias"] == 0.25
    assert lr["cls_token"] == 0.125
    assert lr["patch_embed.weight"] == 0.125 * 0.2


def test_biases_and_norms_do_not_decay() -> None:
    decayed = {name for name, values in multipliers(TinyViT()).items() if values[1]}
    assert decayed == {"cls_token", "patch_embed.weight", "blocks.0.fc.weight", "blocks.1.fc.weight"}


def test_the_head_multiplier_needs_the_name_of_the_head() -> None:
    whole, alone = multipliers(student()), multipliers(student()["dino_head"])
    assert whole["dino_head.last_layer.weight"] == (1, 0.3, True)
    assert whole["dino_head.mlp.bias"] == (1, 0, False)
    assert alone["last_layer.weight"] == (1, 1, True)
    assert whole["backbone.blocks.0.fc.weight"] == (0.25, 1, False)


def test_names_of_wrappers_do_not_count() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    plain, wrapped = TinyViT(), TinyViT()
    for i in range(2):
        wrapped.blocks[i] = checkpoint_wrapper(wrapped.blocks[i])
    compiled = cast(nn.Module, torch.compile(wrapped, backend="eager"))
    assert any("_checkpoint_wrapped_module" in name for name, _ in compiled.named_parameters())
    assert any("_orig_mod" in name for name, _ in compiled.named_parameters())
    assert multipliers(compiled) == multipliers(plain)


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    module = student()
    module.get_parameter("backbone.norm.bias").requires_grad_(False)
    grouped = [p for group in parameter_groups(module, **OPTIONS) for p in group.params]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {p for p in module.parameters() if p.requires_grad}


def test_groups_hold_equal_multipliers_in_order_of_appearance() -> None:
    groups = parameter_groups(TinyViT(), **OPTIONS)
    keys = [(g.lr_multiplier, g.wd_multiplier) for g in groups]
    assert len(keys) == len(set(keys))
    assert [g.names[0] for g in groups][:3] == ["cls_token", "patch_embed.weight", "patch_embed.bias"]
    assert groups[3].names == ["blocks.0.norm1.weight", "blocks.0.norm1.bias", "blocks.0.fc.bias"]


def config(**values: float | str) -> OptimConfig:
    cfg = OptimConfig()
    for key, value in values.items():
        setattr(cfg, key, value)
    return cfg


def test_schedules_are_multiplied_into_each_group() -> None:
    optimizer = build_optimizer(parameter_groups(student(), **OPTIONS), config())
    apply_schedules(optimizer, lr=0.1, wd=0.2, last_layer_lr=0.0)
    for group in optimizer.param_groups:
        expected = 0.0 if group["is_last_layer"] else 0.1 * group["lr_multiplier"]
        assert group["lr"] == expected
        assert group["weight_decay"] == 0.2 * group["wd_multiplier"]
    assert [g["lr"] for g in optimizer.param_groups if g["is_last_layer"]] == [0.0]


def test_one_step_is_adamw_with_the_configured_betas() -> None:
    """After one step the bias corrections cancel: the update is lr * grad / (|grad| + eps)."""
    module = nn.ModuleDict({"fc": nn.Linear(3, 1, bias=False)})
    weight = module.get_parameter("fc.weight")
    before, grad = weight.detach().clone(), torch.tensor([[2.0, -0.5, 1e-8]])
    optimizer = build_optimizer(parameter_groups(module, **OPTIONS), config(adamw_beta1=0.8, adamw_beta2=0.95))
    apply_schedules(optimizer, lr=0.1, wd=0.4, last_layer_lr=0.1)
    weight.grad = grad.clone()
    optimizer.step()
    expected = before * (1 - 0.1 * 0.4) - 0.1 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected)
    state = optimizer.state[weight]
    torch.testing.assert_close(state["exp_avg"], grad * (1 - 0.8))
    torch.testing.assert_close(state["exp_avg_sq"], grad**2 * (1 - 0.95))


def filled_gradients(module: nn.ModuleDict, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator) * scale


def norm_of(module: nn.Module) -> float:
    return float(sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None) ** 0.5)


def test_each_submodule_is_clipped_by_its_own_norm() -> None:
    module = student()
    filled_gradients(module, 10.0)
    for p in module["dino_head"].parameters():
        assert p.grad is not None
        p.grad *= 1e-3
    before = {name: norm_of(child) for name, child in module.items()}
    norms = clip_per_submodule(module, max_norm=3.0)
    assert {name: float(norm) for name, norm in norms.items()} == pytest.approx(before)
    assert norm_of(module["backbone"]) == pytest.approx(3.0, rel=1e-5)
    assert norm_of(module["dino_head"]) == pytest.approx(before["dino_head"])  # below the limit: untouched


@pytest.mark.parametrize("max_norm", [None, 0.0])
def test_without_a_limit_the_norm_is_only_measured(max_norm: float | None) -> None:
    module = student()
    filled_gradients(module, 10.0)
    before = norm_of(module["backbone"])
    norms = clip_per_submodule(module, max_norm)
    assert float(norms["backbone"]) == pytest.approx(before)
    assert norm_of(module["backbone"]) == pytest.approx(before)


def test_a_submodule_without_gradients_has_norm_zero() -> None:
    norms = clip_per_submodule(student(), max_norm=3.0)
    assert {name: float(norm) for name, norm in norms.items()} == {"backbone": 0, "dino_head": 0}


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    module = student()
    filled_gradients(module, 1.0)
    module.get_parameter("backbone.norm.bias").grad = torch.full((4,), torch.nan)
    norms = clip_per_submodule(module, max_norm=3.0)
    assert norms["backbone"].isnan()
    assert norms["dino_head"].isfinite()


def test_ema_is_the_weighted_mean_and_a_momentum_of_one_changes_nothing() -> None:
    teacher, source = (
        [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])],
        [torch.tensor([5.0, 2.0]), torch.tensor([[1.0]])],
    )
    ema_update(teacher, source, 0.75)
    assert [t.tolist() for t in teacher] == [[2.0, 2.0], [[2.5]]]
    before = [t.clone() for t in teacher]
    ema_update(teacher, source, 1.0)
    assert all(torch.equal(t, b) for t, b in zip(teacher, before, strict=True))


def test_ema_refuses_other_lengths_and_narrow_teachers() -> None:
    with pytest.raises(ValueError, match="longer"):
        ema_update([torch.zeros(2)], [torch.zeros(2), torch.zeros(2)], 0.9)
    with pytest.raises(ValueError, match=r"fp32 teacher parameters, got torch\.bfloat16"):
        ema_update([torch.zeros(2).bfloat16()], [torch.zeros(2).bfloat16()], 0.9)


def one_step(module: nn.ModuleDict, teacher: nn.ModuleDict, x: Tensor) -> dict[str, Tensor]:
    """Backward, clip, AdamW, EMA; the norms of the gradients."""
    optimizer = build_optimizer(parameter_groups(module, **OPTIONS), config())
    apply_schedules(optimizer, lr=0.1, wd=0.1, last_layer_lr=0.1)
    module["backbone"](x).square().mul(torch.arange(4)).mean().backward()
    norms = clip_per_submodule(module, max_norm=0.01)
    optimizer.step()
    ema_update(teacher.parameters(), module.parameters(), 0.9)
    return norms


def whole(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [(p.full_tensor() if isinstance(p, DTensor) else p).detach() for p in parameters]


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    module, teacher = student(), student()
    for model in (module, teacher):
        fully_shard(model["backbone"], mesh=mesh)
    assert all(isinstance(p, DTensor) for p in module["backbone"].parameters())
    norms = one_step(module, teacher, torch.randn(8, 3, generator=torch.Generator().manual_seed(2)).split(4)[rank])
    with pytest.raises(ValueError, match="sharded in the same way"):
        ema_update(teacher.parameters(), student().parameters(), 0.9)
    assert not any(isinstance(norm, DTensor) for norm in norms.values())
    out = {"norms": norms, "student": whole([*module.parameters()]), "teacher": whole([*teacher.parameters()])}
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_sharded_step_is_the_unsharded_one(tmp_path: Path) -> None:
    run_processes(_worker, (str(tmp_path),), 2)
    module, teacher = student(), student()
    norms = one_step(module, teacher, torch.randn(8, 3, generator=torch.Generator().manual_seed(2)))
    for rank in range(2):
        ours = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(ours["norms"], norms)
        for name, model in (("student", module), ("teacher", teacher)):
            expected = whole([*model.parameters()])
            torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-6)
