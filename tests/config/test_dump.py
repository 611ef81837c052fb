"""The printed config: order, comments, secrets. That it loads as itself is in test_load.py."""

from __future__ import annotations

import re

import yaml

from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.config.spec import leaves

# Their keys are the user's: nothing below them is in the schema.
FREE = ("evaluation.config_files", "evaluation.dense.data_of", "evaluation.dense.settings")


def test_printed_keys_stand_in_the_order_of_the_schema() -> None:
    tree = yaml.safe_load(to_yaml(Config()))

    def flat(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict) and f"{prefix}{name}" not in FREE:
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    null_blocks = {"schedules"} | {
        f"{b}.loss_weight_schedule" for b in ("gram", "feature_anchor", "feature_distillation")
    }
    below = tuple(f"{block}." for block in null_blocks)
    expected = [x.key for x in leaves(Config, Config()) if not x.key.startswith(below)]
    assert [k for k in flat(tree) if k not in null_blocks] == expected


def test_any_yaml_reader_gets_the_same_numbers() -> None:
    tree = yaml.safe_load(to_yaml(Config(), comments=True))
    assert tree["student"]["layerscale"] == 1e-5
    assert tree["checkpointing"]["keep_every"] == 99999999999999999
    assert tree["ibot"]["mask_ratio_min_max"] == [0.1, 0.5]
    assert tree["schedules"] is None


def test_comments_change_no_value() -> None:
    assert yaml.safe_load(to_yaml(Config(), comments=True)) == yaml.safe_load(to_yaml(Config()))


def test_a_null_block_stands_as_a_comment_that_can_be_uncommented(tmp_path) -> None:
    after = to_yaml(Config(), comments=True).split("schedules: null", 1)[1].split("\n\n", 1)[0]
    path = tmp_path / "x.yaml"
    path.write_text("schedules:\n" + "\n".join(line.removeprefix("# ") for line in after.splitlines()[1:]))
    schedules = load_config(path).schedules
    assert schedules is not None
    assert (schedules.lr.peak, schedules.momentum.end, schedules.teacher_temp.warmup_epochs) == (1e-3, 1.0, 30.0)


def test_every_key_has_a_comment() -> None:
    for line in to_yaml(Config(), comments=True).splitlines():
        assert not line or re.search(r"  # \S", line), line


def test_a_config_with_a_secret_is_written_without_it() -> None:
    cfg = Config()
    cfg.train.dataset_path = "HuggingFace:name=a:token=hf_abc"
    cfg.evaluation.config_files = {"api_key": "xyz"}
    for text in (to_yaml(cfg), to_yaml(cfg, comments=True), str(to_dict(cfg))):
        assert "hf_abc" not in text
        assert "xyz" not in text
    assert cfg.train.dataset_path.endswith("hf_abc")


def test_a_dict_of_a_config_holds_plain_values() -> None:
    values = to_dict(Config())
    assert values["dino"]["local_loss_weight_schedule"]["peak"] == 0.5
    assert values["schedules"] is None
