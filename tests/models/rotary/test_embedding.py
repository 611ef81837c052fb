from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from dinov3.models.build import vit_tiny
from dinov3.models.rotary.embedding import RopePositionEmbedding, RopeTable, Rotation


def rope(head_dim: int = 8, **settings: object) -> RopePositionEmbedding:
    module = RopePositionEmbedding(head_dim, **{"dtype": "fp32"} | settings)  # type: ignore[arg-type]
    module.init_weights()
    return module.eval()


def angles_by_definition(rows: int, cols: int, periods: list[float], normalize: str) -> Tensor:
    units = {"separate": (rows, cols), "max": (max(rows, cols),) * 2, "min": (min(rows, cols),) * 2}[normalize]
    table = []
    for row in range(rows):
        for col in range(cols):
            y, x = 2 * (row + 0.5) / units[0] - 1, 2 * (col + 0.5) / units[1] - 1
            half = [2 * math.pi * y / p for p in periods] + [2 * math.pi * x / p for p in periods]
            table.append(half + half)
    return torch.tensor(table)


@pytest.mark.parametrize("normalize", ["separate", "max", "min"])
def test_angles_are_those_of_the_definition(normalize: str) -> None:
    module = rope(normalize_coords=normalize)
    table = module(2, 3)
    expected = angles_by_definition(2, 3, module.periods.tolist(), normalize)
    assert torch.allclose(table.sin, expected.sin(), atol=1e-5)
    assert torch.allclose(table.cos, expected.cos(), atol=1e-5)


def test_periods_of_a_base_are_its_powers() -> None:
    assert rope(16, base=100.0).periods.tolist() == pytest.approx([1.0, 100**0.25, 10.0, 100**0.75])


def test_periods_between_two_are_evenly_spaced_in_the_logarithm() -> None:
    module = rope(12, base=None, min_period=0.5, max_period=8.0)
    assert module.periods.tolist() == pytest.approx([0.5, 2.0, 8.0])


def test_loaded_periods_win() -> None:
    module = rope()
    before = module(2, 2)
    module.load_state_dict({"periods": module.periods * 2})
    assert not torch.allclose(module(2, 2).sin, before.sin)


def test_rotation_turns_pairs_and_keeps_the_prefix() -> None:
    angles = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)).tile(2)  # 3 patches, D_head 4
    rotation = Rotation.of(RopeTable(angles.sin(), angles.cos()), n_prefix=2)
    x = torch.randn(2, 5, 1, 4, generator=torch.Generator().manual_seed(1))
    out = rotation.apply(x)
    assert torch.equal(out[:, :2], x[:, :2])
    for patch in range(3):
        for i in range(2):
            a, (u, v) = float(angles[patch, i]), x[:, 2 + patch, 0, [i, i + 2]].unbind(-1)
            assert torch.allclose(out[:, 2 + patch, 0, i], u * math.cos(a) - v * math.sin(a), atol=1e-6)
            assert torch.allclose(out[:, 2 + patch, 0, i + 2], v * math.cos(a) + u * math.sin(a), atol=1e-6)


def test_products_of_queries_and_keys_depend_on_the_distance_only() -> None:
    rotation = Rotation.of(rope(16)(1, 8), n_prefix=0)
    q, k = torch.randn(2, 1, 1, 16, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (rotation.apply(t.expand(1, 8, 16)) for t in (q, k))
    products = (turned_q[0] @ turned_k[0].mT).diagonal(offset=2)  # all pairs two patches apart
    assert torch.allclose(products, products[0].expand(6), atol=1e-4)


def test_rotation_runs_in_the_dtype_of_the_table() -> None:
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    fine, coarse = (Rotation.of(rope(dtype=d)(2, 2), 0).apply(x) for d in ("fp32", "bf16"))
    assert coarse.dtype == torch.float32
    assert torch.equal(coarse, coarse.bfloat16().float())
    assert torch.allclose(fine, coarse, atol=0.05)
    assert Rotation.of(rope()(2, 2), 0).apply(x.bfloat16()).dtype == torch.bfloat16


def test_augmentation_is_for_training_and_new_at_every_call() -> None:
    module = rope(shift_coords=0.3, jitter_coords=1.5, rescale_coords=2.0)
    plain = rope()(2, 3)
    assert torch.equal(module(2, 3).sin, plain.sin)
    module.train()
    torch.manual_seed(0)
    first, second = module(2, 3), module(2, 3)
    assert not torch.equal(first.sin, second.sin)
    assert not torch.equal(first.sin, plain.sin)
    torch.manual_seed(0)
    assert torch.equal(module(2, 3).sin, first.sin)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({"shift_coords": 0.5}, lambda c, n: c[0] - n[0]),  # the same for all patches of an axis
        ({"jitter_coords": 3.0}, lambda c, n: c[0] / n[0]),
        ({"rescale_coords": 3.0}, lambda c, n: c / n),  # the same for both axes
    ],
)
def test_each_augmentation_changes_the_coordinates_in_its_way(settings: dict[str, float], change: object) -> None:
    module = rope(4, base=None, min_period=100.0, max_period=100.0, **settings).train()  # sin is nearly the angle
    torch.manual_seed(1)
    drawn = module(3, 2).sin[:, :2].asin().T * 100 / (2 * math.pi)  # [2 axes, P]
    plain = module.eval()(3, 2).sin[:, :2].asin().T * 100 / (2 * math.pi)
    at = plain[0].abs() > 0.1  # the middle row has coordinate 0
    values = change(drawn[:, at], plain[:, at])  # type: ignore[operator]
    assert torch.allclose(values, values.flatten()[0].expand_as(values), atol=1e-3)
    assert not torch.allclose(drawn, plain, atol=1e-2)


@pytest.mark.parametrize(
    ("head_dim", "settings", "message"),
    [
        (6, {}, "multiple of 4"),
        (8, {"base": None}, "pos_embed_rope_base"),
        (8, {"min_period": 1.0, "max_period": 2.0}, "pos_embed_rope_base"),
        (8, {"normalize_coords": "both"}, "'both'"),
        (8, {"dtype": "fp8"}, "'fp8'"),
    ],
)
def test_impossible_settings_are_named(head_dim: int, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RopePositionEmbedding(head_dim, **settings)  # type: ignore[arg-type]


def test_fsdp_mixed_precision_leaves_the_table_alone() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = vit_tiny(depth=1, img_size=32, pos_embed_rope_dtype="fp32")
        model.init_weights(torch.Generator().manual_seed(0))
        seen: list[torch.dtype] = []
        attention = model.blocks[0].attn
        attention.register_forward_pre_hook(lambda _, args: seen.extend((args[0].dtype, args[2][0].cos.dtype)))  # type: ignore[union-attr]
        mesh, policy = init_device_mesh("cpu", (1,)), MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        for module in (model.blocks[0], model):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        model(torch.randn(1, 3, 32, 32), is_training=True)
    finally:
        dist.destroy_process_group()
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("augmented", [False, True])
def test_a_compiled_graph_has_the_tables_of_the_plain_one_bit_for_bit(augmented: bool) -> None:
    """Traced into the graph, the bf16 steps would not be rounded one by one."""
    module = rope(16, dtype="bf16", rescale_coords=2.0).train(augmented)
    compiled = torch.compile(
        lambda: module.rotation(5, 7, 3), fullgraph=True, backend="aot_eager" if augmented else "inductor"
    )
    torch.manual_seed(0)
    found = compiled()
    torch.manual_seed(0)
    expected = module.rotation(5, 7, 3)
    assert found.cos.shape == (3 + 35, 16)
    assert torch.equal(found.cos, expected.cos)
    assert torch.equal(found.signed_sin, expected.signed_sin)


def test_a_backbone_compiled_for_a_grid_computes_no_sines_in_its_graph() -> None:
    graphs: list[str] = []

    def kept(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph.code)
        return graph

    model = vit_tiny(device="cpu", depth=1, embed_dim=16, num_heads=2)
    model.init_weights()
    torch.compile(model, fullgraph=True, backend=kept)(torch.rand(1, 3, 32, 48))
    assert "dinov3.rotation" in graphs[0]
    assert ".sin()" not in graphs[0]
