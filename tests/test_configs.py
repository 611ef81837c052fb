"""Every shipped YAML loads, says truthfully how it is run, and every key of the schema has a reader."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest

from dinov3.config.about.default_yaml import default_yaml
from dinov3.config.about.tasks import SCHEMAS
from dinov3.config.about.usage import dead_but_read, unread_keys
from dinov3.config.archs import CONVNEXT_ARCHS, VIT_ARCHS
from dinov3.config.dit import DIT, DitConfig
from dinov3.config.load import load_config, parse_override, to_yaml
from dinov3.config.recipes import config_file
from dinov3.config.run_config import RunBlocks
from dinov3.config.schema import Config, StudentConfig
from dinov3.config.spec import choices_of, hints, leaves
from dinov3.finetune.kinds import kind_of

ROOT = Path(__file__).resolve().parent.parent
STUDENTS = sorted((ROOT / "configs" / "train" / "students").glob("*.yaml"))
DIT_FILES = sorted((ROOT / "configs" / "dit").glob("*.yaml"))
FINETUNE = sorted((ROOT / "configs" / "finetune").glob("*.yaml"))
SEGMENT_FILES = sorted((ROOT / "configs" / "dense").glob("*.yaml"))
FILES = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*STUDENTS, *DIT_FILES, *FINETUNE, *SEGMENT_FILES})


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_shipped_config_loads_without_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_config(path)
    assert caplog.messages == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_first_line_is_the_command_that_runs_the_file(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    command = re.match("# (python|torchrun --nproc-per-node 8) -m dinov3.train ", first)
    assert command is not None
    words = shlex.split(first[command.end() :])
    assert words[:3] == ["--config-file", named(path), "--output-dir"]
    overrides = words[4:]
    assert all(parse_override(word) for word in overrides)
    load_config(path, overrides)


@pytest.mark.parametrize("path", DIT_FILES, ids=named)
def test_a_recipe_of_a_diffusion_transformer_is_run_by_its_first_line(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# dinov3 dit train --config-file {named(path)} --output-dir ")
    with caplog.at_level(logging.WARNING):
        cfg = load_config(path, shlex.split(first)[8:], DIT)
    assert cfg.train.dataset_path == "SHARDS"
    assert caplog.messages == []
    assert config_file(f"dit/{path.stem}").read_text() == config_file(named(path)).read_text() == path.read_text()


def test_every_key_of_a_diffusion_transformer_is_read_or_refused() -> None:
    """Keys that all kinds of run have are the trainer's to read."""
    shared = {leaf.key for leaf in leaves(RunBlocks, RunBlocks())}
    own = [leaf.name for leaf in leaves(DitConfig, DitConfig()) if leaf.key not in shared]
    text = "".join(path.read_text() for path in (ROOT / "dinov3" / "generate").rglob("*.py"))
    assert [name for name in own if not re.search(rf"\.{name}\b", text)] == []


@pytest.mark.parametrize("path", [*FINETUNE, *SEGMENT_FILES], ids=named)
def test_a_recipe_of_fine_tuning_loads_and_its_first_line_is_the_command(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schema, first = kind_of(path, ()).schema, path.read_text().splitlines()[0]
    words = shlex.split(first.removeprefix("# dinov3 finetune "))
    assert words[:4] == ["--config-file", named(path), "--output-dir", f"runs/{path.stem}"]
    with caplog.at_level(logging.WARNING):
        cfg = load_config(path, words[4:], schema)
    assert caplog.messages == []
    if cfg.task == "classify":
        assert len({cfg.train.dataset_path, cfg.evaluation.validation, cfg.evaluation.test}) == 3


def test_every_students_file_belongs_to_a_recipe_and_lies_over_it() -> None:
    path = ROOT / "configs" / "train" / "multi_distillation.yaml"
    layout = load_config(path).multidistillation
    assert sorted(s.config_path for s in layout.students) == [named(file) for file in STUDENTS]
    for file in STUDENTS:
        assert file.read_text().startswith(f"# One of the students of {named(path)}, laid over it.\n")


def test_the_default_yaml_is_what_the_schema_says() -> None:
    assert (ROOT / "configs" / "ssl_default_config.yaml").read_text() == default_yaml()
    assert load_config(ROOT / "configs" / "ssl_default_config.yaml") == Config()


def test_the_full_vitb_config_writes_out_every_key_in_order() -> None:
    path = ROOT / "configs" / "vitb_full_config.yaml"
    header, body = path.read_text().split("\n\n", 1)
    assert all(line.startswith("#") for line in header.splitlines())
    assert body == to_yaml(load_config(path))


def test_the_full_vitb_config_has_the_da3_block_switched_off() -> None:
    da3 = load_config(ROOT / "configs" / "vitb_full_config.yaml").da3
    assert (da3.enabled, da3.loss_weight, da3.embed_dim, da3.projector_hidden_dim) == (False, 1.0, 1024, 2048)
    assert (da3.ckpt_path, da3.use_fsdp) == ("", False)


def test_the_imagenet_recipe_is_the_official_default_recipe() -> None:
    cfg = load_config(ROOT / "configs" / "train" / "vitl_im1k.yaml")
    cfg.train.dataset_path = Config().train.dataset_path
    assert cfg == Config()


def test_the_demo_has_a_prototype_for_each_global_crop_of_a_batch() -> None:
    """With more, Sinkhorn-Knopp must spread every target over several prototypes, and a run so short stays uniform."""
    cfg = load_config(ROOT / "configs" / "train" / "demo_cpu.yaml")
    assert cfg.dino.head_n_prototypes == cfg.ibot.head_n_prototypes == 2 * cfg.train.batch_size_per_gpu


def test_the_photo_run_is_fifty_steps() -> None:
    cfg = load_config(ROOT / "configs" / "train" / "photos_vits.yaml")
    assert cfg.optim.epochs * cfg.train.OFFICIAL_EPOCH_LENGTH == 50


def test_the_schema_knows_the_architectures_that_can_be_built() -> None:
    assert choices_of(hints(StudentConfig)["arch"]) == (*VIT_ARCHS, *CONVNEXT_ARCHS)


@pytest.mark.parametrize("task", SCHEMAS)
def test_every_key_is_read_by_some_code_or_says_why_not(task: str) -> None:
    assert unread_keys(task) == []


@pytest.mark.parametrize("task", SCHEMAS)
def test_no_key_that_is_called_dead_is_read(task: str) -> None:
    assert dead_but_read(task) == []
