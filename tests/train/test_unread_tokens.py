"""A last block that passes over tokens nobody reads: the same losses and gradients as one that finishes all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3.config.derived import skips_unread_tokens
from dinov3.models.block import Block
from dinov3.train.accumulation import accumulate
from dinov3.train.ssl_meta_arch import SSLMetaArch
from tests.plan.real import real_step
from tests.train.tiny import tiny_config

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"student__drop_path_rate": 0.0},
    "drop path": {"student__drop_path_rate": 0.4},
    "deep": {"student__depth": 3, "student__drop_path_rate": 0.2},
    "no LayerScale": {"student__layerscale": 0},
    "untied norms": {
        "student__untie_cls_and_patch_norms": True,
        "student__untie_global_and_local_cls_norm": True,
    },
    "selective checkpointing": {"train__checkpointing": True},
    "full checkpointing": {"train__checkpointing_full": True},
    "no local crops": {"crops__local_crops_number": 0},
    "accumulated": {"train__gradient_accumulation_steps": 2},
    "SwiGLU": {"student__ffn_layer": "swiglu"},
}


def step_of(how: str, recipe: dict[str, Any]) -> tuple[SSLMetaArch, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The model after one step; losses and gradients by name."""
    recipe = {"student__layerscale": 1.0} | recipe  # else a branch is a hundred thousandth of what it is added to
    made = real_step(tiny_config(compute_precision__unread_tokens=how, train__log_every=100, **recipe))
    total, terms = accumulate(made.model, made.batches, teacher_temp=0.05, iteration=1)
    values = {"total": total} | {k: v for k, v in terms.items() if isinstance(v, torch.Tensor)}
    gradients = {n: p.grad for n, p in made.model.student.named_parameters() if p.grad is not None}
    return made.model, values, gradients


@pytest.mark.parametrize("name", RECIPES)
def test_losses_and_gradients_are_those_of_a_block_that_finishes_every_token(name: str) -> None:
    (whole, values, gradients), (narrow, ours, our_gradients) = (step_of(h, RECIPES[name]) for h in ("compute", "skip"))
    assert narrow.narrow
    assert not whole.narrow
    assert ours.keys() == values.keys()
    assert our_gradients.keys() == gradients.keys()
    for key, value in values.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    for key, value in gradients.items():
        error = (our_gradients[key] - value).norm()
        assert error <= 2e-5 * value.norm() + 1e-7, (key, error, value.norm())


def test_only_rows_that_are_read_pass_through_the_last_blocks_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    made = real_step(tiny_config(student__drop_path_rate=0.0, compute_precision__unread_tokens="skip"))
    seen: dict[int, list[int]] = {}
    blocks: Any = made.model.student["backbone"].blocks
    for number, block in enumerate(blocks):
        assert isinstance(block, Block)
        block.mlp.fc1.register_forward_hook(  # type: ignore[union-attr]
            lambda module, inputs, output, number=number: seen.setdefault(number, []).append(len(output))
        )
    made.model.get_student_output(made.batches[0])
    batch = made.batches[0]
    crops = len(batch.collated_global_crops) + len(batch.collated_local_crops)
    assert seen[1] == [crops + len(batch.mask_indices_list)]
    assert seen[0][0] > 2 * seen[1][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"gram__use_loss": True, "gram__ema_teacher": True},
        {"feature_anchor__enabled": True},
        {"da3__enabled": True, "da3__random_init": True, "da3__loss_on": "all", "da3__variant": "small"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_loss_that_reads_every_patch_has_every_patch(changes: dict[str, Any]) -> None:
    cfg = tiny_config(compute_precision__unread_tokens="skip", **changes)
    assert not SSLMetaArch(cfg, "meta").narrow


def test_tokens_are_passed_over_where_nothing_is_compiled() -> None:
    assert skips_unread_tokens(tiny_config(), "cpu")
    assert not skips_unread_tokens(tiny_config(), "cuda")
    assert skips_unread_tokens(tiny_config(train__compile=False), "cuda")
    assert not skips_unread_tokens(tiny_config(compute_precision__unread_tokens="compute"), "cpu")
