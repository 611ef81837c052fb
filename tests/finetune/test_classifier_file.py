"""A classifier that is written is the one that is read; adapters are peft's; a damaged description is one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from dinov3.finetune.classifier import Classifier, choose_what_trains
from dinov3.finetune.classifier_file import (
    ABOUT,
    About,
    adapters_at,
    folder_of,
    load_classifier,
    place_folder,
    read_about,
    read_head_for,
    write_classifier,
)
from dinov3.finetune.config import AdapterConfig, ClassifierConfig
from dinov3.finetune.errors import FinetuneError
from dinov3.models.lora import LowRank
from dinov3.weights.adapter_files import read_adapters, told_of_adapters
from dinov3.weights.own import load_backbone, write_backbone
from dinov3.weights.provenance import Facts
from tests.finetune import tiny

ABOUT_IT = About(3, "cls+mean", 16, False, "LoRA", "w", 7, names=["a", "b", "c"], temperature=1.5)


@pytest.fixture
def classifier() -> Classifier:
    made = Classifier(tiny.backbone(), 3, "cls+mean")
    choose_what_trains(made, ClassifierConfig(method="lora"), AdapterConfig(rank=2, rslora=True), 0)
    torch.manual_seed(1)
    for module in made.modules():
        if isinstance(module, LowRank):
            torch.nn.init.normal_(module.b)
    return made.eval()


def write(path: Path, classifier: Classifier) -> None:
    place_folder(path, lambda folder: write_classifier(folder, classifier, ABOUT_IT, Facts(tiny.PREPROCESS)))


def test_it_comes_back_with_its_adapters_merged(classifier: Classifier, tmp_path: Path) -> None:
    write(tmp_path / "c", classifier)
    write(tmp_path / "c", classifier)  # in place of what was there
    again, about = load_classifier(tmp_path / "c")
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(again(images), classifier(images), rtol=0, atol=1e-5)
    assert about == ABOUT_IT == read_about(tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert load_backbone(tmp_path / "c").embed_dim == 16


def test_its_adapters_belong_on_the_backbone_of_before(classifier: Classifier, tmp_path: Path) -> None:
    write(tmp_path / "c", classifier)
    plain = Classifier(tiny.backbone(), 3, "cls+mean")
    read_adapters(plain.backbone, tmp_path / "c" / "adapters")
    plain.head = classifier.head
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(plain.eval()(images), classifier(images), rtol=0, atol=1e-6)


def test_another_backbone_takes_its_place_when_the_head_fits(classifier: Classifier, tmp_path: Path) -> None:
    write(tmp_path / "c", classifier)
    (tmp_path / "other").mkdir()
    other = tiny.backbone(seed=5)
    write_backbone(tmp_path / "other", other, tiny.PREPROCESS)
    found, _ = load_classifier(tmp_path / "c", tmp_path / "other")
    assert torch.equal(found.backbone.cls_token, other.cls_token)
    (tmp_path / "wide").mkdir()
    write_backbone(tmp_path / "wide", tiny.backbone(embed_dim=32), tiny.PREPROCESS)
    with pytest.raises(FinetuneError, match="of another backbone, pool or number of classes"):
        load_classifier(tmp_path / "c", tmp_path / "wide")


def test_a_head_is_taken_by_the_names_of_its_classes(classifier: Classifier, tmp_path: Path) -> None:
    write(tmp_path / "c", classifier)
    other = Classifier(tiny.backbone(), 3, "cls+mean")
    assert read_head_for(other, tmp_path / "c", ["a", "b", "c"]) == []
    assert torch.equal(other.head.weight, classifier.head.weight)
    (said,) = read_head_for(other, tmp_path / "c", ["c", "a", "b"])
    assert "order of the classes here" in said
    assert torch.equal(other.head.weight, classifier.head.weight[[2, 0, 1]])
    assert torch.equal(other.head.bias, classifier.head.bias[[2, 0, 1]])
    (said,) = read_head_for(other, tmp_path / "c", None)
    assert "numbers" in said
    with pytest.raises(FinetuneError, match=r"a head of other classes than the images have \('c', 'x' are in one"):
        read_head_for(other, tmp_path / "c", ["a", "b", "x"])


def test_adapters_are_found_in_a_classifier_and_told_of(classifier: Classifier, tmp_path: Path) -> None:
    write(tmp_path / "run" / "classifier", classifier)
    place = tmp_path / "run" / "classifier" / "adapters"
    for given in (place, place.parent, tmp_path / "run"):
        assert adapters_at(given) == place
    assert adapters_at(tmp_path) == tmp_path
    assert told_of_adapters(place) == "rank 2, alpha 16, trained on w"


@pytest.mark.parametrize("change", [{"classes": 1}, {"pool": "max"}, {"more": 1}, {"format_version": 9}, {"size": "a"}])
def test_a_description_that_says_something_else_is_one_line(
    classifier: Classifier, tmp_path: Path, change: dict[str, object]
) -> None:
    write(tmp_path / "c", classifier)
    path = tmp_path / "c" / ABOUT
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FinetuneError, match=r"classifier\.json: "):
        load_classifier(tmp_path / "c")


def test_a_folder_that_is_no_classifier_is_named(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match=r"no classifier\.json in it: give a run"):
        folder_of(tmp_path)


def test_a_kill_between_the_two_renames_loses_nothing(classifier: Classifier, tmp_path: Path) -> None:
    """A child process dies where the old folder has left its place and the new one has not taken it."""
    path = tmp_path / "run" / "classifier"
    write(path, classifier)
    rename, done = os.rename, []

    def dies_at_the_second(one: Path, other: Path) -> None:
        if done:
            os._exit(9)
        done.append(other)
        rename(one, other)

    if (child := os.fork()) == 0:
        os.rename = dies_at_the_second  # type: ignore[assignment]
        write(path, classifier)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not path.exists()
    assert read_about(path.parent) == read_about(path) == ABOUT_IT  # a command that reads changes nothing
    write(path, classifier)
    assert [p.name for p in path.parent.iterdir()] == ["classifier"]


def test_what_cannot_be_written_leaves_the_old_one(classifier: Classifier, tmp_path: Path) -> None:
    write(tmp_path / "c", classifier)

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        place_folder(tmp_path / "c", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert read_about(tmp_path / "c") == ABOUT_IT
