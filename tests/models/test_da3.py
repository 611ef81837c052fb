"""The Depth Anything 3 encoder against arrays of the reference encoder, and the properties a teacher needs."""

from __future__ import annotations

import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dinov3.models import da3
from dinov3.models.da3 import VARIANTS, DA3Encoder, DA3Spec, DA3ViT, apply_rope, rope_tables

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "data" / "da3"
GOLDEN_ENV = "DINOV3_GOLDEN_DA3"
ATOL = 2e-5  # over CPU back ends the reference itself moves by up to 5.7e-6; the mildest mutation moves it by 9e-5
TINY = DA3Spec(64, 6, 2, alt_start=2)
SPECS = {
    "small": VARIANTS["small"],
    "tiny_anyview": TINY,
    "tiny_mono": DA3Spec(64, 4, 2, alt_start=None),
    "tiny_swiglu": DA3Spec(96, 6, 3, alt_start=3, swiglu=True),
}
LEVELS = {"small": (5, 7, 9, 11), "tiny_anyview": (3, 5), "tiny_mono": (0, 1, 2, 3), "tiny_swiglu": (3, 5)}
INPUTS = {"sq": (2, 3, 224, 224), "rect": (1, 3, 168, 224)}

pytestmark = pytest.mark.usefixtures("one_thread")


def fill_with_golden_formula(encoder: DA3Encoder) -> DA3Encoder:
    """Every weight from the crc32 of its official name, as the reference was filled."""
    with torch.no_grad():
        for key, value in encoder.state_dict().items():
            name = f"model.backbone.{key}"
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            drawn = torch.randn(value.numel(), generator=generator).reshape(value.shape) * 0.02
            *_, parent, last = name.split(".")
            shift = 0.1 if last == "gamma" else 1.0 if last == "weight" and "norm" in parent else 0.0
            value.copy_(drawn + shift)
    return encoder.eval()


def golden_encoder(variant: str) -> DA3Encoder:
    return fill_with_golden_formula(DA3Encoder(SPECS[variant]))


def golden_input(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"input_{name}".encode()))
    return torch.randn(math.prod(INPUTS[name]), generator=generator).reshape(INPUTS[name])


def select(vit: DA3ViT, target: str, layer: int = -1) -> DA3Encoder:
    encoder = DA3Encoder(vit.spec, target, layer)
    encoder.pretrained = vit
    return encoder.eval()


def golden_array(vit: DA3ViT, what: str, levels: tuple[int, ...], images: Tensor) -> Tensor:
    """What this project computes for one stored array, in the array's layout (axis 1 is the single view)."""
    plain = vit.spec.alt_start is None
    if what == "levels":
        rows = []
        for level in levels:
            tokens = select(vit, "global" if plain else "full", level)(images).double()
            rows.append(torch.cat((tokens.mean()[None], tokens.std()[None], tokens[0, 7, :8], tokens[0, 7, -8:])))
        return torch.stack(rows)
    if what in ("prenorm", "cam"):
        local, last = vit.states(images, vit.spec.depth - 1)
        if what == "prenorm":
            return last[:, None, 1:]
        return last[:, :1] if plain else torch.cat((local, last), dim=-1)[:, :1]
    return select(vit, {"local": "local", "global_norm": "global", "tokens_norm": "global"}[what])(images)[:, None]


@torch.no_grad()
def check_all_arrays(folder: Path) -> dict[str, float]:
    """The largest difference of every array in ``folder/*.npz``; fails on the first beyond the tolerance."""
    arrays = {
        name: stored[name] for path in sorted(folder.glob("*.npz")) for stored in [np.load(path)] for name in stored
    }
    differences = {}
    for variant in sorted({name.split("/")[0] for name in arrays}):
        vit = golden_encoder(variant).pretrained
        for name in (n for n in arrays if n.startswith(f"{variant}/")):
            _, image, what = name.split("/")
            expected = torch.from_numpy(arrays[name])
            actual = golden_array(vit, what, LEVELS[variant], golden_input(image))
            if variant == "small" and what == "prenorm":
                actual = actual[:, :, ::4]  # stored for every fourth token only
            assert actual.shape == expected.shape, name
            differences[name] = (actual - expected).abs().max().item()
            assert differences[name] <= ATOL, f"{name}: {differences[name]:.2e}"
    return differences


def test_every_golden_array_is_met() -> None:
    assert len(check_all_arrays(GOLDEN)) == 28


def test_every_golden_array_of_the_folder_in_the_environment_is_met() -> None:
    folder = os.environ.get(GOLDEN_ENV)
    if not folder:
        pytest.skip(f"set {GOLDEN_ENV} to a folder of da3_golden_*.npz to check it")
    assert check_all_arrays(Path(folder))


def test_the_golden_weights_are_drawn_as_the_reference_drew_them() -> None:
    sums = json.loads((GOLDEN / "param_sums.json").read_text())
    for variant, expected in sums.items():
        state = golden_encoder(variant).state_dict()
        actual = {
            f"model.backbone.{k}": [v.double().sum().item(), v.double().abs().sum().item()] for k, v in state.items()
        }
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert actual[key] == pytest.approx(value, rel=1e-5, abs=1e-4), key


@pytest.mark.parametrize("variant", SPECS)
def test_state_dict_keys_and_shapes_are_the_official_ones(variant: str) -> None:
    official = json.loads((GOLDEN / "keys.json").read_text())[variant]
    with torch.device("meta"):
        state = DA3Encoder(SPECS[variant]).state_dict()
    assert {f"model.backbone.{key}": list(value.shape) for key, value in state.items()} == official


@pytest.mark.parametrize(
    ("variant", "width", "full", "millions"),
    [
        ("small", 384, 768, 22.1),
        ("base", 768, 1536, 86.6),
        ("large", 1024, 2048, 304.4),
        ("giant", 1536, 3072, 1136.5),
        ("mono-large", 1024, None, 304.4),
        ("metric-large", 1024, None, 304.4),
    ],
)
def test_every_variant_has_the_published_width_and_size(
    variant: str, width: int, full: int | None, millions: float
) -> None:
    spec = VARIANTS[variant]
    with torch.device("meta"):
        encoder = DA3Encoder(spec)
        assert encoder(torch.empty(2, 3, 28, 42)).shape == (2, 6, width)
        if full:
            assert DA3Encoder(spec, "full")(torch.empty(2, 3, 28, 42)).shape == (2, 6, full)
            assert DA3Encoder(spec, "full").embed_dim == full
    assert encoder.embed_dim == width
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(millions * 1e6, abs=5e4)
    assert set(VARIANTS) == {"small", "base", "large", "giant", "mono-large", "metric-large"}


def test_norm_epsilons_are_the_official_ones() -> None:
    """The golden arrays cannot see the q/k norms' epsilon: 1e-6 there moves them by 4e-6 only."""
    vit = DA3ViT(TINY)
    norms = {name: module.eps for name, module in vit.named_modules() if isinstance(module, nn.LayerNorm)}
    assert norms["blocks.2.attn.q_norm"] == 1e-5
    assert norms["blocks.5.attn.k_norm"] == 1e-5
    assert norms.pop("norm") == 1e-5
    blocks = {name: eps for name, eps in norms.items() if "attn" not in name}
    assert len(blocks) == 12
    assert set(blocks.values()) == {1e-6}
    assert set(norms.values()) == {1e-5, 1e-6}
    assert "blocks.1.attn.q_norm" not in norms


def test_rope_turns_channel_pairs_by_row_and_column_angles() -> None:
    rows, cols, dim = 2, 3, 8
    tables = rope_tables((rows, cols), dim, torch.device("cpu"))
    x = torch.randn(1, 1, 1 + rows * cols, dim, generator=torch.Generator().manual_seed(0))
    positions = [(0, 0)] + [(r + 1, c + 1) for r in range(rows) for c in range(cols)]
    for rope, places in ((tables.local, positions), (tables.scene, [(0, 0)] + [(1, 1)] * (rows * cols))):
        turned = apply_rope(x, rope)
        for token, place in enumerate(places):
            for axis in range(2):
                for i in range(dim // 4):
                    a, b = dim // 2 * axis + i, dim // 2 * axis + i + dim // 4
                    angle = place[axis] * 100.0 ** (-2 * i / (dim // 2))
                    z = complex(x[0, 0, token, a], x[0, 0, token, b]) * complex(math.cos(angle), math.sin(angle))
                    assert complex(turned[0, 0, token, a], turned[0, 0, token, b]) == pytest.approx(z, abs=1e-6)


def test_the_schedule_alternates_from_alt_start() -> None:
    assert [i for i in range(12) if VARIANTS["base"].is_global(i)] == [5, 7, 9, 11]
    assert [i for i in range(24) if VARIANTS["large"].is_global(i)] == list(range(9, 24, 2))
    assert [i for i in range(40) if VARIANTS["giant"].is_global(i)] == list(range(13, 40, 2))
    assert not any(VARIANTS["mono-large"].is_global(i) for i in range(24))
    assert [TINY.last_local(i) for i in range(6)] == [0, 1, 2, 2, 4, 4]


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1])
def test_targets_are_the_halves_of_full_at_any_layer(layer: int) -> None:
    vit, images = golden_encoder("tiny_anyview").pretrained, golden_input("rect")
    local, last = vit.states(images, layer % 6)
    full = select(vit, "full", layer)(images)
    assert torch.equal(full[..., :64], local[:, 1:])
    assert torch.equal(full[..., 64:], vit.norm(last)[:, 1:])
    assert torch.equal(select(vit, "local", layer)(images), full[..., :64])
    assert torch.equal(select(vit, "global", layer)(images), full[..., 64:])


@torch.no_grad()
def test_full_normalized_gives_both_halves_the_same_norm_and_keeps_their_directions() -> None:
    vit, images = golden_encoder("tiny_anyview").pretrained, golden_input("rect")
    vit.norm.weight.mul_(7.0)
    halves = select(vit, "full_normalized")(images).unflatten(-1, (2, 64))
    raw = select(vit, "full")(images).unflatten(-1, (2, 64))
    assert raw.norm(dim=-1)[..., 1].mean() > 2 * raw.norm(dim=-1)[..., 0].mean()
    assert torch.allclose(halves.norm(dim=-1), torch.tensor(8.0), atol=0.01)
    centred = raw - raw.mean(-1, keepdim=True)
    assert F.cosine_similarity(halves, centred, dim=-1).min() > 0.9999


@torch.no_grad()
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 9), rows=st.integers(1, 5), cols=st.integers(1, 5))
def test_tokens_never_depend_on_batch_neighbours_or_order(seed: int, batch: int, rows: int, cols: int) -> None:
    encoder, generator = select(golden_encoder("tiny_anyview").pretrained, "full"), torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, 14 * rows, 14 * cols, generator=generator)
    tokens = encoder(images)
    order = torch.randperm(batch, generator=generator)
    assert torch.equal(encoder(images[order]), tokens[order])
    strangers = torch.randn(images.shape, generator=generator)
    strangers[-1] = images[-1]
    assert torch.equal(encoder(strangers)[-1], tokens[-1])
    # With fewer than four token rows (one thread) the matrix product takes another kernel: 2e-7 apart, measured.
    assert torch.allclose(encoder(images[:1])[0], tokens[0], rtol=0, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("variant", SPECS)
def test_tokens_are_the_same_bits_alone_and_in_a_batch(variant: str) -> None:
    encoder, images = golden_encoder(variant), golden_input("sq")
    together = encoder(images)
    assert torch.equal(encoder(images[:1]), together[:1])
    assert torch.equal(encoder(images[1:]), together[1:])


@torch.no_grad()
def test_only_the_reference_camera_token_is_used() -> None:
    encoder, images = golden_encoder("tiny_anyview"), golden_input("rect")[..., :14, :28]  # two patches feel it most
    before, noise = encoder(images), torch.randn(64, generator=torch.Generator().manual_seed(0))
    encoder.pretrained.camera_token[:, 1] += noise
    assert torch.equal(encoder(images), before)
    encoder.pretrained.camera_token[:, 0] += noise
    assert not torch.allclose(encoder(images), before, atol=1e-3)


@torch.no_grad()
def test_at_the_trained_grid_the_position_embedding_is_used_as_it_is() -> None:
    vit = golden_encoder("tiny_mono").pretrained
    assert torch.equal(vit.tables((37, 37))[0], vit.pos_embed)
    assert vit.tables((37, 36))[0].shape == (1, 1 + 37 * 36, 64)


@torch.no_grad()
def test_tables_are_built_once_a_grid_and_follow_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    def counted(grid: tuple[int, int], head_dim: int, device: torch.device) -> da3.RopeTables:
        calls.append(grid)
        return rope_tables(grid, head_dim, device)

    monkeypatch.setattr(da3, "rope_tables", counted)
    encoder, images = golden_encoder("tiny_anyview"), golden_input("rect")
    before = encoder(images)
    encoder(images[..., :28])
    assert torch.equal(encoder(images), before)
    assert calls == [(12, 16), (12, 2)]
    encoder.pretrained.pos_embed.mul_(3.0)
    changed = encoder(images)
    assert not torch.allclose(changed, before, atol=1e-3)
    fill_with_golden_formula(encoder)
    assert torch.equal(encoder(images), before)
    vit = encoder.pretrained
    for value in (1.0, 2.0):  # two parameters that were never written to
        vit.pos_embed = nn.Parameter(torch.full((1, 1370, 64), value))
        assert vit.tables((2, 2))[0].mean().item() == pytest.approx(value)
    assert vit.double().tables((2, 2))[0].dtype == torch.float64
    for rows in range(1, 40):
        vit.tables((rows, 1))
    assert len(vit._tables) == da3.KEPT_GRIDS


@pytest.mark.parametrize("trainable", [True, False])
def test_gradients_flow_after_the_grid_was_used_for_inference(trainable: bool) -> None:
    encoder, images = golden_encoder("tiny_anyview"), golden_input("rect")
    vit = encoder.pretrained
    vit.pos_embed.requires_grad_(trainable)
    with torch.inference_mode():
        encoder(images)
    encoder(images).square().sum().backward()
    assert vit.patch_embed.proj.weight.grad is not None
    assert (vit.pos_embed.grad is not None) == trainable


def test_the_mlp_uses_the_exact_gelu() -> None:
    """Only the large golden arrays can tell it from the tanh form, which is 8e-5 away there."""
    mlp, x = da3.Mlp(8), torch.linspace(-3, 3, 16).reshape(2, 8)
    hidden = mlp.fc1(x)
    expected = mlp.fc2(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    assert torch.allclose(mlp(x), expected, atol=1e-7)


@pytest.mark.nightly  # tests/teachers holds one graph daily, of one grid
@torch.no_grad()
def test_the_encoder_compiles_as_one_graph_for_any_grid() -> None:
    spec = DA3Spec(32, 3, 2, alt_start=1, swiglu=True)
    encoder = DA3Encoder(spec, "full_normalized")
    encoder.init_weights(torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    for shape in ((2, 3, 28, 42), (2, 3, 28, 42), (5, 3, 70, 56), (1, 3, 42, 28)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        assert torch.equal(compiled(images), encoder(images))


@torch.no_grad()
def test_bf16_autocast_keeps_the_direction_of_every_token() -> None:
    encoder, images = golden_encoder("tiny_anyview"), golden_input("sq")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = encoder(images)
    assert rounded.dtype == torch.float32
    assert F.cosine_similarity(rounded, encoder(images), dim=-1).min() > 0.999
    whole = golden_encoder("tiny_anyview").bfloat16()(images.bfloat16())
    assert F.cosine_similarity(whole.float(), encoder(images), dim=-1).min() > 0.999


def test_init_weights_repeats_for_a_seed_and_leaves_nothing_unset() -> None:
    def fresh(seed: int) -> dict[str, Tensor]:
        with torch.device("meta"):
            encoder = DA3Encoder(TINY).to_empty(device="cpu")
        for value in encoder.parameters():
            nn.init.constant_(value, math.nan)
        encoder.init_weights(torch.Generator().manual_seed(seed))
        return encoder.state_dict()

    first, again, other = fresh(1), fresh(1), fresh(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(value.isfinite().all() for value in first.values())
    assert not torch.equal(first["pretrained.pos_embed"], other["pretrained.pos_embed"])
    assert first["pretrained.blocks.0.attn.qkv.weight"].std().item() == pytest.approx(0.02, abs=0.002)
    assert first["pretrained.blocks.3.attn.q_norm.weight"].unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 224, 225), r"width 225 is not a multiple of the patch size 14: use 224 or 238"),
        ((1, 3, 250, 224), r"height 250 .* use 238 or 252"),
        ((1, 3, 13, 14), r"height 13 .* use 14$"),
        ((1, 3, 0, 14), r"height 0 .* use 14$"),
        ((2, 1, 3, 28, 28), r"must be \[N, 3, H, W\], got \[2, 1, 3, 28, 28\]"),
        ((1, 1, 28, 28), r"must be \[N, 3, H, W\]"),
    ],
)
def test_images_off_the_patch_grid_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DA3Encoder(DA3Spec(32, 1, 2, alt_start=None))(torch.zeros(shape))


def test_unknown_targets_and_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="'both' is unknown: use one of global, local, full, full_normalized"):
        DA3Encoder(TINY, "both")
    with pytest.raises(ValueError, match="layer 6 is outside this encoder's 6 blocks: use 0 to 5"):
        DA3Encoder(TINY, layer=6)
    with pytest.raises(ValueError, match="'full' needs a local half"):
        DA3Encoder(SPECS["tiny_mono"], "full")
