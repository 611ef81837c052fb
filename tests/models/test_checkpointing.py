from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dinov3.models.checkpointing import CheckpointedBlock, CheckpointMode, set_mode
from dinov3.models.convnext import ConvNeXt
from dinov3.models.vit import DinoVisionTransformer
from tests.models import test_execution as two_sizes

MODES: list[CheckpointMode] = ["none", "selective", "full"]


def vit() -> nn.Module:
    model = DinoVisionTransformer(
        img_size=32,
        embed_dim=32,
        depth=2,
        num_heads=2,
        layerscale_init=0.5,
        n_storage_tokens=2,
        drop_path_rate=0.4,
        pos_embed_rope_rescale_coords=2.0,
        pos_embed_rope_dtype="fp32",
    )
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def convnext() -> nn.Module:
    model = ConvNeXt(depths=[1, 1, 2, 1], dims=[8, 8, 16, 16], drop_path_rate=0.5, layer_scale_init_value=1.0)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def gradients(model: Any, mode: str) -> dict[str, Tensor]:
    model.set_checkpointing(mode)
    model.zero_grad()
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(3, 3, 64, 64, generator=generator), torch.randn(4, 3, 32, 32, generator=generator)]
    torch.manual_seed(2)
    outputs = model.train()(images, is_training=True)
    sum(f.cls.square().sum() + (f.patches * f.patches.roll(1, -1)).sum() for f in outputs).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("build", [vit, convnext])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputing_changes_no_gradient(build: Any, mode: str) -> None:
    plain, recomputed = gradients(build(), "none"), gradients(build(), mode)
    assert any(g.any() for g in plain.values())
    # selective has one product for q, k and v of all crop sizes, which adds up a weight's gradient in another order
    tolerance = 1e-5 if (build, mode) == (vit, "selective") else 0.0
    for name, grad in plain.items():
        assert (grad - recomputed[name]).norm() <= tolerance * grad.norm(), name


def linears_run(mode: CheckpointMode) -> tuple[int, int]:
    """How often a Linear and a GELU run in a forward and backward pass of one block."""

    class Toy(CheckpointedBlock):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.checkpointed(lambda y: self.fc2(nn.functional.gelu(self.fc1(y))), x)

    from torch.utils._python_dispatch import TorchDispatchMode

    counts = {"addmm": 0, "gelu": 0}

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.__name__.split(".")[0]
            if name in counts:
                counts[name] += 1
            return func(*args, **kwargs or {})

    toy = Toy()
    set_mode(toy, mode)
    with Count():
        toy(torch.randn(2, 4, requires_grad=True)).sum().backward()
    return counts["addmm"], counts["gelu"]


def test_selective_repeats_activations_but_no_matrix_product() -> None:
    assert linears_run("none") == (2, 1)
    assert linears_run("selective")[0] == 2
    assert linears_run("selective")[1] == 2
    assert linears_run("full")[0] > 2


def test_nothing_is_recomputed_without_gradients() -> None:
    model: Any = vit()
    model.set_checkpointing("full")
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_an_unknown_mode_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'some'.*selective"):
        set_mode(vit(), "some")


def test_selective_recomputation_of_crops_of_two_sizes_repeats_no_product() -> None:
    def work(mode: CheckpointMode) -> int:
        model = two_sizes.vit()
        model.set_checkpointing(mode)
        with FlopCounterMode(display=False) as counter:
            two_sizes.run(model)
        return counter.get_total_flops()

    assert work("none") == work("selective") < 0.85 * work("full")
