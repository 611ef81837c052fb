"""The frozen DA3 teacher: built from its config block, loaded strictly, alone with each image."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from dinov3.models.da3 import VARIANTS, DA3Encoder, DA3Spec
from dinov3.teachers.da3_backbone import (
    SOURCES,
    Da3Backbone,
    build_da3_backbone,
    find_checkpoint,
    teacher_input_size,
)
from dinov3.weights.reading.da3_checkpoint import Da3CheckpointError, Da3CheckpointNotFoundError

TINY = DA3Spec(32, 4, 2, alt_start=2)
PREFIX = "model.backbone.pretrained."
State = dict[str, Tensor]


@dataclass
class Settings:
    variant: str = "small"
    target: str = "global"
    ckpt_path: str = ""
    embed_dim: int | None = None
    dtype: str = "fp32"
    random_init: bool = False


@pytest.fixture(autouse=True)
def tiny_small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """The public path with a "small" of 0.1 M weights instead of 22 M, on one thread."""
    monkeypatch.setitem(VARIANTS, "small", TINY)


def official_state() -> State:
    """What an official file holds: the encoder, and parts this project does not read."""
    encoder = DA3Encoder(TINY)
    encoder.init_weights(torch.Generator().manual_seed(3))
    state = {f"model.backbone.{key}": value for key, value in encoder.state_dict().items()}
    return state | {"model.head.norm.weight": torch.ones(64), "model.cam_dec.fc.bias": torch.ones(3)}


def write_official(folder: Path, state: State | None = None, name: str = "da3-small") -> Settings:
    folder.mkdir(exist_ok=True)
    save_file(official_state() if state is None else state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_name": name, "config": {"net": {"name": "vits"}}}))
    return Settings(ckpt_path=str(folder))


def some_images(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 28, 42, generator=torch.Generator().manual_seed(5))


def test_an_official_folder_gives_its_own_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model, width = build_da3_backbone(write_official(tmp_path))
    assert width == 32
    state = official_state()
    loaded = {f"model.{key}": value for key, value in model.state_dict().items()}
    assert loaded.keys() == {key for key in state if key.startswith("model.backbone.")}
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    assert model(some_images()).shape == (3, 6, 32)
    assert f"loaded all {len(loaded)} encoder tensors" in caplog.text
    assert "1 of model.head.*, 1 of model.cam_dec.*" in caplog.text


def test_folder_safetensors_and_pth_are_the_same_teacher(tmp_path: Path) -> None:
    settings = write_official(tmp_path)
    torch.save(official_state(), tmp_path / "weights.pth")
    torch.save(official_state(), tmp_path / "weights.pt")
    expected = build_da3_backbone(settings)[0](some_images())
    for name in ("model.safetensors", "weights.pth", "weights.pt"):
        model, _ = build_da3_backbone(Settings(ckpt_path=str(tmp_path / name)))
        assert torch.equal(model(some_images()), expected)


def drop(state: State) -> None:
    del state[f"{PREFIX}blocks.3.attn.q_norm.weight"]


def add_inside(state: State) -> None:
    state[f"{PREFIX}mask_token"] = torch.zeros(1, 32)


def add_outside(state: State) -> None:
    state["optimizer.step"] = torch.zeros(1)


def transpose(state: State) -> None:
    state[f"{PREFIX}blocks.0.mlp.fc1.weight"] = state[f"{PREFIX}blocks.0.mlp.fc1.weight"].T.contiguous()


def poison(value: float) -> Callable[[State], None]:
    def edit(state: State) -> None:
        state[f"{PREFIX}norm.bias"][7] = value

    return edit


def to_integers(state: State) -> None:
    state[f"{PREFIX}norm.bias"] = state[f"{PREFIX}norm.bias"].long()


def unprefix(state: State) -> None:
    for key in list(state):
        state[key.removeprefix("model.backbone.")] = state.pop(key)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop, r"1 missing keys: model.backbone.pretrained.blocks.3.attn.q_norm.weight \[16\]$"),
        (add_inside, r"1 unexpected keys: model.backbone.pretrained.mask_token \[1, 32\]$"),
        (add_outside, r"1 unexpected keys: optimizer.step \[1\]$"),
        (transpose, r"misshapen keys: \S+blocks.0.mlp.fc1.weight \[32, 128\] but the encoder has \[128, 32\]$"),
        (poison(float("nan")), r"1 tensors hold NaN or infinity: pretrained.norm.bias$"),
        (poison(float("-inf")), r"1 tensors hold NaN or infinity: pretrained.norm.bias$"),
        (to_integers, r"misshapen keys: \S+norm.bias (I64|torch.int64) but the encoder has \[32\]$"),
        (unprefix, r"needs encoder keys model.backbone.\*, and holds"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, edit: Callable[[State], None], message: str, suffix: str
) -> None:
    state, path = official_state(), tmp_path / f"weights{suffix}"
    edit(state)
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    with pytest.raises(Da3CheckpointError, match=message) as caught:
        build_da3_backbone(Settings(ckpt_path=str(path)))
    assert str(caught.value).startswith(str(path))


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_payload_is_refused_and_never_runs(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path, canary = tmp_path / f"weights{suffix}", tmp_path / "canary"
    content = {**official_state(), "model.head.extra": Payload(canary)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(Da3CheckpointError, match=r"asks to run \S*system, .* nothing was run"):
        build_da3_backbone(Settings(ckpt_path=str(path)))
    assert not canary.exists()
    pickle.loads(pickle.dumps(Payload(canary)))  # the canary does sing when nothing stops it
    assert canary.exists()


def test_a_config_of_another_variant_is_refused_naming_both(tmp_path: Path) -> None:
    settings = write_official(tmp_path, name="da3-base")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        settings.ckpt_path = str(path)
        with pytest.raises(Da3CheckpointError, match=r"'da3-base' contradicts da3.variant 'small': set .* base"):
            build_da3_backbone(settings)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_one_of_its_two_files_is_refused(tmp_path: Path, missing: str) -> None:
    settings = write_official(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / missing} does not exist"):
        build_da3_backbone(settings)


@pytest.mark.parametrize(
    "path", ["/no/such/folder", "no/such/folder", "./no/such", "~/no-such-folder", "weights", "here/typo", "a/b.pth"]
)
def test_a_missing_local_path_is_an_error_and_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=None))
    with pytest.raises(FileNotFoundError, match=f"da3.ckpt_path '{path}' does not exist"):
        build_da3_backbone(Settings(ckpt_path=path))
    with pytest.raises(ValueError, match="does not exist"):
        build_da3_backbone(Settings(ckpt_path=path))


def test_a_hub_id_without_huggingface_hub_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Da3CheckpointNotFoundError, match=r"'org/name' does not exist here.* needs huggingface_hub"):
        find_checkpoint("org/name", "small")


def test_a_hub_id_is_read_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official(tmp_path / "cache")
    asked: list[tuple[str, str]] = []

    def hf_hub_download(repo: str, name: str) -> str:
        asked.append((repo, name))
        return str(tmp_path / "cache" / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    model, _ = build_da3_backbone(Settings(ckpt_path="depth-anything/DA3-SMALL"))
    assert torch.equal(model.backbone.pretrained.cls_token, official_state()[f"{PREFIX}cls_token"])
    assert asked == [("depth-anything/DA3-SMALL", name) for name in ("config.json", "model.safetensors")]
    asked.clear()
    with pytest.raises(Da3CheckpointError, match="contradicts"):
        build_da3_backbone(Settings(ckpt_path="depth-anything/DA3-SMALL", variant="base"))
    assert asked == [("depth-anything/DA3-SMALL", "config.json")]


def test_an_unreachable_hub_is_one_line_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def hf_hub_download(repo: str, name: str) -> str:
        raise ConnectionError("offline\nmore lines")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    with pytest.raises(FileNotFoundError, match=r"'org/name' .* config.json could not be read from the Hub: offline$"):
        build_da3_backbone(Settings(ckpt_path="org/name"))


def test_an_empty_path_says_what_to_download_and_under_which_licence() -> None:
    with pytest.raises(ValueError, match=r"da3\.ckpt_path is empty") as caught:
        build_da3_backbone(Settings(variant="giant"))
    text = str(caught.value)
    assert "https://huggingface.co/depth-anything/DA3-GIANT-1.1 " in text
    assert "Apache-2.0: small, base, mono-large, metric-large; CC BY-NC 4.0: large, giant." in text
    assert SOURCES.keys() == VARIANTS.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(variant="huge"), "da3.variant 'huge' is unknown: use one of small, base, large, giant, mono-large"),
        (Settings(dtype="int8"), "da3.dtype 'int8' is unknown: use one of fp32, bf16, fp16"),
        (Settings(target="cls"), "'small': target 'cls' is unknown: use one of global, local, full, full_normalized"),
        (Settings(variant="mono-large", target="full"), "'mono-large': target 'full' needs a local half"),
        (Settings(variant="base", embed_dim=1024), "embed_dim is 1024, but variant 'base' .* 'global' returns 768"),
        (Settings(variant="base", target="full", embed_dim=768), "embed_dim is 768, .* 'full' returns 1536"),
        (Settings(random_init=True, ckpt_path="x"), "da3.random_init is true and da3.ckpt_path is 'x': set only one"),
    ],
)
def test_settings_that_contradict_are_refused_before_anything_is_read(settings: Settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_da3_backbone(settings)


def random_teacher(dtype: str = "fp32", target: str = "global") -> Da3Backbone:
    return build_da3_backbone(Settings(random_init=True, dtype=dtype, target=target))[0]


def test_random_init_repeats_and_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, second = random_teacher(), random_teacher()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first(some_images()), second(some_images()))
    assert build_da3_backbone(Settings(random_init=True, target="full", embed_dim=64))[1] == 64


def test_the_teacher_is_frozen_and_stays_in_eval_mode() -> None:
    model = random_teacher()
    parent = nn.Sequential(model).train()
    assert parent.training
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    images = some_images().requires_grad_()
    tokens = model(images)
    assert not tokens.requires_grad
    projector = nn.Linear(32, 32)
    (projector(tokens) * tokens).sum().backward()
    assert projector.weight.grad is not None
    assert images.grad is None


def test_a_teacher_built_under_the_meta_device_has_real_weights(tmp_path: Path) -> None:
    settings = write_official(tmp_path)
    torch.save(official_state(), tmp_path / "weights.pth")
    with torch.device("meta"):  # where a trainer builds its own model
        loaded, random = build_da3_backbone(settings)[0], random_teacher()
        settings.ckpt_path = str(tmp_path / "weights.pth")
        unpickled, _ = build_da3_backbone(settings)
    for model in (loaded, random, unpickled):
        assert {p.device.type for p in model.parameters()} == {"cpu"}
        assert model(some_images()).isfinite().all()


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_each_image_is_its_own_scene(dtype: str) -> None:
    model, images = random_teacher(dtype, "full"), some_images(6)
    tokens, order = model(images), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(model(images[order]), tokens[order])
    assert torch.equal(model(images.index_fill(0, torch.tensor([0, 1, 2]), 9.0))[3:], tokens[3:])
    alone = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(alone, tokens, rtol=0, atol=1e-6 if dtype == "fp32" else 2e-2)


def test_the_dtype_rules_the_products_and_nothing_else() -> None:
    exact, images = random_teacher(), some_images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(exact(images), exact(images.double()))
        inside = exact(images)
    assert torch.equal(inside, exact(images))
    rounded = random_teacher("bf16")
    assert {p.dtype for p in rounded.parameters()} == {torch.float32}
    tokens = rounded(images)
    assert tokens.dtype == torch.float32
    assert not torch.equal(tokens, inside)
    assert nn.functional.cosine_similarity(tokens, inside, dim=-1).min() > 0.999


def test_the_teacher_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    for dtype in ("fp32", "bf16"):
        model = random_teacher(dtype, "full_normalized")
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.equal(compiled(some_images()), model(some_images()))


@given(cells=st.integers(1, 64))
def test_the_teacher_size_gives_the_students_grid(cells: int) -> None:
    assert teacher_input_size(256) == 224
    assert teacher_input_size(cells * 16) // 14 == cells
    assert teacher_input_size(cells * 14, student_patch=14) == cells * 14


def test_a_student_size_off_its_grid_names_the_nearest_sizes() -> None:
    with pytest.raises(ValueError, match=r"size 250 .* patch 16: use 240 \(teacher 210\) or 256 \(teacher 224\)$"):
        teacher_input_size(250)
    with pytest.raises(ValueError, match=r"size 9 .* use 16 \(teacher 14\)$"):
        teacher_input_size(9)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        teacher_input_size(0)
