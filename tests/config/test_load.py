"""Good configs load; every kind of bad one ends in exactly one line that says where, what and what to do."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dinov3.config.errors import ConfigError
from dinov3.config.load import COMMAND_LINE, load_config, to_yaml
from dinov3.config.references import resolve_references
from dinov3.config.schema import Config, ScheduleConfig

SECOND_STYLE = """
schedules:
  lr: {start: 0, peak: 1e-3, end: 1e-6, warmup_epochs: 10, freeze_last_layer_epochs: 1}
  weight_decay: {start: 0.04, peak: 0.04, end: 0.4}
  momentum: {start: 0.992, peak: 0.992, end: 1}
  teacher_temp: {start: 0.04, peak: 0.07, end: 0.07, warmup_epochs: 30}
"""

# (YAML text, what must stand after "FILE: ")
BAD_FILES = {
    "key of another command": (
        "evaluation:\n  validation: images",
        "evaluation.validation: unknown key here, `dinov3 finetune` has it: is this YAML for that command?",
    ),
    "unknown key": ("optim:\n  lrr: 1", "optim.lrr: unknown key (did you mean optim.lr?)"),
    "unknown block": ("optimm:\n  lr: 1", "optimm: unknown key (did you mean optim?)"),
    "key of another block": (
        "optim:\n  batch_size_per_gpu: 8",
        "optim.batch_size_per_gpu: unknown key (did you mean train.batch_size_per_gpu?)",
    ),
    "key without its block": ("min_lr: 1", "min_lr: unknown key (did you mean optim.min_lr?)"),
    "key unlike any": (
        "zzzz: 1",
        "zzzz: unknown key (`dinov3 config search WORD` finds one, `dinov3 config default` shows all)",
    ),
    "unknown key below a block": (
        "evaluation:\n  knn:\n    kk: 3",
        "evaluation.knn.kk: unknown key (did you mean evaluation.knn.k?)",
    ),
    "word for a whole number": (
        "train:\n  batch_size_per_gpu: abc",
        "train.batch_size_per_gpu: 'abc' is not a whole number",
    ),
    "fraction for a whole number": ("train:\n  seed: 1.5", "train.seed: '1.5' is not a whole number"),
    "truth for a whole number": ("train:\n  seed: true", "train.seed: 'true' is not a whole number"),
    "word for a number": ("optim:\n  lr: fast", "optim.lr: 'fast' is not a number"),
    "number for a truth": ("train:\n  compile: 1", "train.compile: '1' is not true or false"),
    "block for a number": ("optim:\n  lr: {a: 1}", "optim.lr: a block of keys is not a number"),
    "list for a number": ("optim:\n  lr: [1]", "optim.lr: ['1'] is not a number"),
    "number for a list": (
        "ibot:\n  mask_ratio_min_max: 0.5",
        "ibot.mask_ratio_min_max: '0.5' is not a list (a number each)",
    ),
    "number for a block": ("optim: 3", "optim: '3' is not a block of keys"),
    "word not among the choices": (
        "student:\n  ffn_layer: swiglue",
        "student.ffn_layer: 'swiglue' is not one of mlp, swiglu, swiglu32, swiglu64, swiglu128 (did you mean swiglu?)",
    ),
    "unknown architecture": (
        "student:\n  arch: vit_smal",
        "student.arch: 'vit_smal' is not one of vit_tiny, vit_small, vit_base, vit_large, vit_so400m, vit_huge2, "
        "vit_giant2, vit_7b, convnext_tiny, convnext_small, convnext_base, convnext_large (did you mean vit_small?)",
    ),
    "null where it has no meaning": ("optim:\n  lr: null", "optim.lr: null is not allowed, it must be a number"),
    "empty value": ("train:\n  seed:", "train.seed: null is not allowed, it must be a whole number"),
    "None for null": ("gram:\n  ckpt: None", "gram.ckpt: None is only a word in YAML, write null"),
    "empty text": ("train:\n  dataset_path: ''", "train.dataset_path: must not be empty"),
    "placeholder": (
        "train:\n  dataset_path: ???",
        "train.dataset_path: ??? was left in, it must be text or a list (text or a block of keys each)",
    ),
    "nan": ("optim:\n  lr: .nan", "optim.lr: .nan is not a finite number"),
    "infinity": ("optim:\n  clip_grad: -.inf", "optim.clip_grad: -.inf is not a finite number"),
    "overflow": ("optim:\n  lr: 1e999", "optim.lr: 1e999 is too large"),
    "zero learning rate": ("optim:\n  lr: 0", "optim.lr: 0 is out of range: it must be > 0"),
    "negative learning rate": ("optim:\n  lr: -1e-3", "optim.lr: -0.001 is out of range: it must be > 0"),
    "no batch": (
        "train:\n  batch_size_per_gpu: 0",
        "train.batch_size_per_gpu: 0 is out of range: it must be >= 1",
    ),
    "no prototypes": ("dino:\n  head_n_prototypes: 0", "dino.head_n_prototypes: 0 is out of range: it must be >= 1"),
    "no bottleneck": (
        "ibot:\n  head_bottleneck_dim: -1",
        "ibot.head_bottleneck_dim: -1 is out of range: it must be >= 1",
    ),
    "shared head": ("ibot:\n  separate_head: false", "ibot.separate_head: 'false' is not supported, only true is"),
    "other optimizer": ("optim:\n  optimizer: sgd", "optim.optimizer: 'sgd' is not supported, only adamw is"),
    "share above 1": (
        "ibot:\n  mask_sample_probability: 1.2",
        "ibot.mask_sample_probability: 1.2 is out of range: it must be >= 0, <= 1",
    ),
    "share above 1 in a list": (
        "ibot:\n  mask_ratio_min_max: [0.1, 50]",
        "ibot.mask_ratio_min_max: 50 is out of range: it must be >= 0, <= 1",
    ),
    "pair in the wrong order": (
        "crops:\n  local_crops_scale: [0.5, 0.1]",
        "crops.local_crops_scale: [0.5, 0.1]: the first value must not be above the second",
    ),
    "pair of three": (
        "crops:\n  global_crops_scale: [0.1, 0.2, 0.3]",
        "crops.global_crops_scale: [0.1, 0.2, 0.3] has 3 values, 2 expected",
    ),
    "drop path of all": (
        "student:\n  drop_path_rate: 1",
        "student.drop_path_rate: 1 is out of range: it must be >= 0, < 1",
    ),
    "schedule left out": (
        "schedules:\n  lr: {start: 0, peak: 1, end: 0}",
        "schedules.weight_decay: is missing, it must be a block of keys",
    ),
    "point of a schedule left out": (
        SECOND_STYLE.replace("start: 0.992, ", ""),
        "schedules.momentum.start: is missing, it must be a number",
    ),
    "resolver": (
        "train:\n  output_dir: ${oc.env:HOME}",
        "train.output_dir: ${oc.env:HOME} is not allowed, a reference names another key",
    ),
    "reference to nothing": (
        "train:\n  output_dir: runs/${train.sed}",
        "train.output_dir: ${train.sed} names no key (did you mean train.seed?)",
    ),
    "reference to a block": (
        "train:\n  output_dir: ${optim}",
        "train.output_dir: ${optim} names no key (did you mean optim?)",
    ),
    "reference to itself": (
        "train:\n  output_dir: ${train.output_dir}/x",
        "train.output_dir: its reference cannot be followed: Recursive interpolation detected",
    ),
    "references in a circle": (
        "wandb:\n  project: ${wandb.name}\n  name: ${wandb.project}",
        "wandb.project: its reference cannot be followed: Recursive interpolation detected",
    ),
    "reference inside a reference": (
        "train:\n  output_dir: ${train.${train.seed}}",
        "train.output_dir: ${train.${train.seed}} is not a reference, write ${block.key}",
    ),
}


def error_of(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_one_exact_line(write, name: str) -> None:
    text, expected = BAD_FILES[name]
    path = write(text)
    assert error_of(path) == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr", "optim.lr: is not key=value: write optim.lr=VALUE, without a blank"),
        ("--optim.lr=1", "--optim.lr=1: is not key=value"),
        ("optim.lrr=1", "optim.lrr: unknown key (did you mean optim.lr?)"),
        ("optimm.lr=1", "optimm: unknown key (did you mean optim?)"),
        ("lr=1", "lr: unknown key (did you mean optim.lr or schedules.lr?)"),
        ("optim.lr=abc", "optim.lr: 'abc' is not a number"),
        ("optim.lr=[", "optim.lr: is not YAML: line 1: expected the node content, but found '<stream end>'"),
        (
            "train.seed=!!python/object:os.system",
            "train.seed: line 1: the tag !!python/object:os.system is not allowed",
        ),
        ("schedules.lr.peak=1", "schedules.lr.start: is missing, it must be a number"),
        ("resume.allow=[train.sed]", "resume.allow: train.sed: unknown key (did you mean train.seed?)"),
    ],
)
def test_a_bad_argument_gives_one_exact_line(override: str, expected: str) -> None:
    assert error_of(None, override) == f"{COMMAND_LINE}: {expected}"


def test_an_argument_does_not_hide_a_value_where_the_file_needs_a_block(write) -> None:
    path = write("train: 3")
    assert error_of(path, "train.seed=1") == f"{path}: train: '3' is not a block of keys"
    path = write("schedules:\n  lr: 0.1")
    assert error_of(path, "schedules.lr.peak=1") == f"{path}: schedules.lr: '0.1' is not a block of keys"
    assert error_of(None, "train=3", "train.seed=1") == f"{COMMAND_LINE}: train: '3' is not a block of keys"


def test_a_file_keeps_its_name_when_an_argument_stands_beside_it(write) -> None:
    path = write("optim:\n  lr: -1")
    assert error_of(path, "optim.epochs=50").startswith(f"{path}: optim.lr:")
    assert error_of(path, "optim.lr=-2").startswith(f"{COMMAND_LINE}: optim.lr: -2 ")


def test_arguments_win_over_the_file_and_later_ones_over_earlier_ones(write) -> None:
    path = write("train:\n  seed: 1\n  num_workers: 3")
    cfg = load_config(path, ["train.seed=2", "train.seed=5"])
    assert (cfg.train.seed, cfg.train.num_workers, cfg.train.log_every) == (5, 3, 10)


def test_no_file_and_no_argument_is_the_default() -> None:
    assert load_config() == Config()


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "+1e-4", "'1e-4'", "1E-4"])
def test_every_spelling_of_a_number_is_a_number(write, text: str) -> None:
    assert load_config(write(f"optim:\n  lr: {text}\n  min_lr: 0")).optim.lr == 1e-4


def test_yaml_1_1_traps_are_read_by_the_schema(write) -> None:
    cfg = load_config(write("wandb: {name: no, project: 010, entity: 2020-01-01}\ntrain: {seed: 010, max_steps: 1e3}"))
    assert (cfg.wandb.name, cfg.wandb.project, cfg.wandb.entity) == ("no", "010", "2020-01-01")
    assert (cfg.train.seed, cfg.train.max_steps) == (10, 1000)


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("On", True), ("FALSE", False), ("off", False)])
def test_every_yaml_word_for_truth_is_read(write, text: str, value: bool) -> None:
    assert load_config(write(f"train:\n  checkpointing: {text}")).train.checkpointing is value


def test_text_arguments_are_taken_as_they_are() -> None:
    cfg = load_config(
        None, ["train.dataset_path=ImageNet:split=TRAIN:root=/a b#c", "wandb.name=007", "wandb.entity=null"]
    )
    assert cfg.train.dataset_path == "ImageNet:split=TRAIN:root=/a b#c"
    assert (cfg.wandb.name, cfg.wandb.entity) == ("007", None)
    assert load_config(None, ["student.pretrained_weights="]).student.pretrained_weights == ""


def test_a_reference_takes_the_final_value_of_its_key(write) -> None:
    path = write(
        "train:\n  output_dir: runs/${student.arch}-${train.seed}-${gram.ckpt}\noptim: {min_lr: '${optim.lr}'}"
    )
    cfg = load_config(path, ["train.seed=7"])
    assert cfg.train.output_dir == "runs/vit_large-7-None"
    assert cfg.optim.min_lr == cfg.optim.lr == 1e-3


def test_a_heading_with_nothing_under_it_changes_nothing(write) -> None:
    assert load_config(write("optim:\ncrops:\ntrain:\n  seed: 0")) == Config()


def test_the_official_default_config_loads_and_differs_in_three_keys(write) -> None:
    official = json.loads((Path(__file__).parent / "official_defaults.json").read_text())
    cfg = load_config(write(yaml.safe_dump(official)))
    assert cfg.train.dataset_path == "ImageNet:split=TRAIN"
    assert cfg.student.ffn_ratio == 4.0
    assert cfg.compute_precision.sharding_strategy == "SHARD_GRAD_OP"
    cfg.train.dataset_path, cfg.student.ffn_ratio = Config().train.dataset_path, None
    cfg.compute_precision.sharding_strategy = "auto"
    assert cfg == Config()


def test_both_schedule_styles_load(write) -> None:
    assert load_config(write("optim: {lr: 2e-3, warmup_epochs: 5}")).schedules is None
    schedules = load_config(write(SECOND_STYLE)).schedules
    assert schedules is not None
    assert schedules.lr == ScheduleConfig(0.0, 1e-3, 1e-6, 10.0, None, 1.0)


def test_keys_of_the_first_style_may_be_null_beside_schedules(write) -> None:
    cfg = load_config(write("optim: {lr: null, warmup_epochs: null}\nteacher: {teacher_temp: null}" + SECOND_STYLE))
    assert (cfg.optim.lr, cfg.teacher.teacher_temp) == (Config().optim.lr, Config().teacher.teacher_temp)


def test_an_argument_that_schedules_would_swallow_is_refused(write) -> None:
    path = write(SECOND_STYLE)
    expected = f"{COMMAND_LINE}: optim.lr: does nothing while `schedules` is given; set schedules.lr.peak"
    assert error_of(path, "optim.lr=1e-4") == expected


def test_published_keys_without_effect_are_named_in_one_warning(write, caplog: pytest.LogCaptureFixture) -> None:
    path = write("train: {cache_dataset: true, saveckp_freq: 20, cell_augmentation: false}\nstudent: {patch_drop: 0.1}")
    with caplog.at_level(logging.WARNING):
        load_config(path)
    expected = f"{path}: these published keys do nothing here: student.patch_drop, train.cache_dataset"
    assert caplog.messages == [expected]


def test_loading_does_not_import_torch_and_omegaconf_only_for_references() -> None:
    code = "import sys, dinov3.config.about.explain; from dinov3.config.load import load_config; load_config(None, ['optim.lr=1'])\n"
    code += "print('torch' in sys.modules, 'omegaconf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


def test_a_tree_without_references_is_what_omegaconf_makes_of_it_and_shares_no_list_with_the_layers() -> None:
    stages = [{"name": "a", "sizes": [1, 2.5, None]}, [True, "x"]]
    tree = {"train": {"seed": 3, "note": None, "stages": stages}, "lr": 1e-4, "text": "$ {no}"}
    expected = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    resolve_references(tree)
    assert tree == expected
    tree["train"]["stages"][0]["sizes"].append(4)
    assert stages[0] == {"name": "a", "sizes": [1, 2.5, None]}


POSITIVE = st.floats(1e-9, 1e9, allow_nan=False)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda s: "${" not in s and s != "???" and "@" not in s and "=" not in s
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    cfg = Config()
    cfg.optim.lr, cfg.optim.min_lr = draw(POSITIVE), 0.0
    cfg.train.seed = draw(st.integers(0, 2**63 - 1))
    cfg.train.max_steps = draw(st.none() | st.integers(1))
    cfg.train.dataset_path, cfg.train.output_dir = draw(TEXT), draw(TEXT)
    cfg.wandb.name = draw(st.none() | TEXT.filter(lambda s: s != "None"))
    cfg.ibot.mask_ratio_min_max = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2)))
    cfg.crops.blur_sigma = draw(st.none() | st.just([0.5, 1.5]))
    cfg.train.centering = draw(st.sampled_from(["sinkhorn_knopp", "centering"]))
    cfg.evaluation.config_files = draw(st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), TEXT, max_size=2))
    return cfg


@settings(max_examples=25, deadline=None)
@given(configs(), st.booleans())
def test_a_printed_config_loads_as_itself(tmp_path_factory, cfg: Config, comments: bool) -> None:
    path = tmp_path_factory.mktemp("printed") / "x.yaml"
    path.write_text(to_yaml(cfg, comments=comments), encoding="utf-8")
    loaded = load_config(path)
    loaded.evaluation.config_files = cfg.evaluation.config_files  # a file adds entries to that one, it takes none away
    assert loaded == cfg


@settings(max_examples=25, deadline=None)
@given(lr=POSITIVE, seed=st.integers(0, 2**63 - 1), compiled=st.booleans(), steps=st.none() | st.integers(1, 10**9))
def test_an_argument_means_what_the_same_line_means_in_a_file(tmp_path_factory, lr, seed, compiled, steps) -> None:
    values = {
        "optim.lr": repr(lr),
        "optim.min_lr": "0",
        "train.seed": str(seed),
        "train.compile": str(compiled).lower(),
        "train.max_steps": "null" if steps is None else str(steps),
    }
    path = tmp_path_factory.mktemp("file") / "x.yaml"
    blocks: dict[str, str] = {}
    for key, value in values.items():
        block, name = key.split(".")
        blocks[block] = blocks.get(block, f"{block}:\n") + f"  {name}: {value}\n"
    path.write_text("".join(blocks.values()))
    assert load_config(path) == load_config(None, [f"{k}={v}" for k, v in values.items()])
