"""Every head with its backbone as ONNX gives torch's numbers in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from dinov3.cli import main as dinov3
from dinov3.depth.estimator_file import About as DepthAbout
from dinov3.depth.estimator_file import load_estimator, write_estimator
from dinov3.detect.answers import said_boxes, scores_of
from dinov3.detect.detector_file import load_detector
from dinov3.finetune.classifier import Classifier
from dinov3.finetune.classifier_file import About as ClassifierAbout
from dinov3.finetune.classifier_file import load_classifier, write_classifier
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.headed import graph
from dinov3.segment.segmenter import HeadShape, Segmenter, build_head
from dinov3.segment.segmenter_file import About as SegmenterAbout
from dinov3.segment.segmenter_file import load_segmenter, write_segmenter
from dinov3.weights.provenance import Facts
from tests.depth.test_estimator import ABOUT, made
from tests.detect.test_detector import write as write_detector_at
from tests.finetune.tiny import PREPROCESS, backbone

Expected = Callable[[Tensor], tuple[Tensor, ...]]


def classifier(at: Path) -> Expected:
    at.mkdir()
    model = Classifier(backbone(), 3, "cls+mean")
    model.init_head(torch.Generator().manual_seed(0))
    write_classifier(at, model, ClassifierAbout(3, "cls+mean", 32, False, "head", "w", 1), Facts(PREPROCESS))
    return lambda images: (load_classifier(at)[0](images),)


def segmenter(at: Path, kind: str) -> Expected:
    at.mkdir()
    vit, shape = backbone(), HeadShape(5, kind, True, 6, 1, 16)
    head = build_head(shape, vit)
    head.init_weights(torch.Generator().manual_seed(0))
    about = SegmenterAbout(5, kind, True, 6, 1, 16, 32, 16, 0, 255, False, "w", 7)
    write_segmenter(at, Segmenter(vit, head, shape), about, Facts(PREPROCESS))
    return lambda images: (load_segmenter(at)[0](images),)


def estimator(at: Path, kind: str) -> Expected:
    at.mkdir()
    about = DepthAbout(head=kind, weights="w", step=7, **(ABOUT | {"crop_height": 32}))
    write_estimator(at, made(kind), about, Facts(PREPROCESS))
    return lambda images: (load_estimator(at)[0](images),)


def detector(at: Path) -> Expected:
    write_detector_at(at)

    def expected(images: Tensor) -> tuple[Tensor, ...]:
        said = load_detector(at)[0](images)
        return scores_of(said), said_boxes(said)

    return expected


HEADS: dict[str, Callable[[Path], Expected]] = {
    "detector": detector,
    "classifier": classifier,
    **{
        f"segmenter, {kind}": lambda at, kind=kind: segmenter(at, kind)
        for kind in ("linear", "dpt", "mask_transformer")
    },
    **{f"estimator, {kind}": lambda at, kind=kind: estimator(at, kind) for kind in ("linear", "dpt")},
}
CASES = [
    pytest.param(name, marks=[] if name == "classifier" else pytest.mark.nightly) for name in HEADS
]  # seconds each


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_agrees_with_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    expected = HEADS[name](tmp_path / "product")
    out = tmp_path / "new" / "model.onnx"
    assert dinov3(["finetune", "export", str(tmp_path / "product"), "--out", str(out)]) == 0
    assert "equal to" in capsys.readouterr().out
    assert {path.name for path in out.parent.iterdir()} <= {"model.onnx", "model.onnx.data"}
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for found, wanted in zip(session.run(None, {"images": images.numpy()}), expected(images), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-4)
    (told,) = (
        prop.value for prop in onnx.load(str(out), load_external_data=False).metadata_props if prop.key == "dinov3"
    )
    assert json.loads(told)["mean"] == PREPROCESS["mean"]


def test_a_graph_that_says_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = graph.Graph(torch.nn.Identity(), 3, (8, 8), {"same": "the images"}, {})
    monkeypatch.setattr(graph, "save_graph", lambda *parts: lambda images: [images + 1])
    with pytest.raises(FinetuneError, match="nothing was written"):
        graph.export(one, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["{at}", "--out", "{at}/a.pth"], "give a file name that ends in .onnx"),
        (["{at}"], "needs one run of `dinov3 finetune` and --out FILE.onnx"),
        (["{at}", "--out", "{at}/a.onnx", "--data", "x"], "--data: does nothing with `export`"),
        (["{at}/none", "--out", "{at}/a.onnx"], "none: no classifier.json in it"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    if problem.startswith("give"):
        write_detector_at(tmp_path / "detector")
    usage = problem.startswith(("needs", "--data"))
    assert dinov3(["finetune", "export", *(word.format(at=tmp_path) for word in words)]) == (2 if usage else 78)
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert problem in error
