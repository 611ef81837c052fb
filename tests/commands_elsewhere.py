"""Commands on an accelerator that computes on the CPU: ``python -m tests.commands_elsewhere [NAME ...]``.

One JSON line a command: its exit code, what ended it, and how many operations had their results on the accelerator.
What ends one would end it on the first GPU: on the CPU the same commands are tested in their rooms.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch

from tests import accelerator_on_cpu
from tests.accelerator_on_cpu import NAME, start

THERE = f"{NAME}:0"  # a device once ``main`` has started it: a test imports this file, and its process shall know nothing of it


def choose_it() -> None:
    """Whoever asks for a device gets the accelerator. First of all: modules keep the functions that they import."""
    from dinov3.data.feed import HostFeed, one_thread
    from dinov3.distributed import context

    context.choose_device = lambda device="auto": torch.device(THERE)  # type: ignore[assignment,return-value]

    from dinov3.features import extract

    extract.known_device = lambda device: torch.device(THERE)  # type: ignore[assignment,return-value]

    def get(self: HostFeed, number: int) -> object:
        """As ``DeviceFeed``, without its streams: crops are sent, and rendered there."""
        with one_thread():
            bad = self.filler.wait(number)
            slot = self.filler.slot(number)
            batch = self.renderer(slot, slot.to(THERE), *self.renderer.writer.batch_at(self.first, number))
        self.filler.release()
        return batch, bad

    HostFeed.get = get  # type: ignore[method-assign,assignment]


def run(*words: object) -> int:
    from dinov3.cli import main

    return main([str(word) for word in words])


def evaluated(at: Path, task: str, data: str, *more: str) -> int:
    kept = ["--cache", at / "cache"] if task in ("seg", "depth") else []
    common = ["--data", data, *kept, "--pictures", at / f"{task}.png"]
    return run("eval", task, "--weights", at / "weights", *common, *more)


def tuned(at: Path, task: str, name: str, **changes: object) -> int:
    from importlib import import_module

    made = import_module(f"tests.{task}.tiny")
    words = made.words(at, **{"train__num_workers": 0, "optim__epochs": 1, **changes})
    return run("finetune", "--output-dir", at / name, *words)


def recovered(at: Path) -> int:
    """A cut model trained back."""
    from tests.compress.recovery.tiny import prepare, words

    found = words(prepare(at / "pair"), train__num_workers=0, optim__epochs=1, train__device="auto")
    return run("finetune", "--output-dir", at / "recovered", "task=recover", *found)


def dit(at: Path) -> int:
    """Features, two steps, and samples."""
    from tests.generate.sets import write_images
    from tests.generate.training.made import TINY

    images, shards, weights = write_images(at / "dit" / "images"), at / "dit" / "shards", at / "weights"
    captions = at / "dit" / "captions.jsonl"
    captions.write_text("".join(json.dumps({"image": p.name, "caption": p.name}) + "\n" for p in images.iterdir()))
    text = ["--text", "hash:4:6", "--captions", captions]
    extract = ["--weights", weights, "--data", images, "--side", "64", "--latents", "pixels", *text]
    if code := run("dit", "extract", *extract, "--out", shards, "--resolution-shift", "2"):
        return code
    keys = [
        f"train.dataset_path={shards}",
        "train.max_steps=2",
        "train.num_workers=0",
        f"validation.backbone={weights}",
    ]
    if code := run("dit", "train", "--output-dir", at / "dit" / "run", *TINY, "train.batch_size_per_gpu=2", *keys):
        return code
    asked = ["--steps", "2", "--weights", weights, "--image", next(images.iterdir()), "--out", at / "dit" / "made"]
    return run("dit", "sample", at / "dit" / "run", *asked, "--device", "cpu")


def video(at: Path) -> int:
    """A mask carried through four frames, with everything that can be written of them."""
    from PIL import Image

    from dinov3.data.sources.synthetic_video import SyntheticVideo

    film = at / "film"
    film.mkdir()
    for number, (pixels, mask) in enumerate(SyntheticVideo(n=1, length=4, size=32).frames(0)):
        Image.fromarray(pixels).save(film / f"{number}.png")
        if number == 0:
            Image.fromarray(mask).save(at / "first.png")
    out = ["--out", at / "tracked", "--mask", at / "first.png", "--render", "png", "--features"]
    return run("video", "--weights", at / "weights", "--input", film, *out)


def classified(at: Path) -> int:
    """Every task of labelled vectors."""
    data = ["--train", f"PCam:root={at}/pcam:split=train", "--test", f"PCam:root={at}/pcam:split=test"]
    common = ["--weights", at / "weights", *data, "--cache", at / "cache"]
    return max(run("eval", task, *common) for task in ("knn", "linear", "logreg", "retrieval"))


def compressed(at: Path) -> int:
    """All methods, on a model that lies there (the command itself keeps to the CPU)."""
    from dinov3.compress.costs import Costs
    from dinov3.compress.methods import METHODS, Settings, Step, compress
    from dinov3.weights.own import load_backbone

    whole = load_backbone(at / "weights").to(THERE)
    batches = [torch.randn(8, 3, 16, 16) for _ in range(2)]
    settings = Settings(Costs("parameters", 6, 16, "none"), 1, True)
    for method in METHODS:
        compress(whole, [Step(method, 0.9)], settings, batches)
    return 0


def refusals(at: Path) -> int:
    """The accelerator itself: it refuses what CUDA refuses, and computes what the CPU computes."""
    a, here = torch.arange(6.0, device=THERE).view(2, 3), torch.ones(2, 3)
    refused: list[Callable[[], object]] = [
        *(lambda: a + here, lambda: here @ a.T, lambda: torch.cat([a, here]), lambda: here.add_(a), a.numpy),
        *(lambda: here[torch.arange(2, device=THERE)], lambda: a.clone().uniform_(generator=torch.Generator())),
        lambda: torch.randn(2, device=THERE, generator=torch.Generator()),
    ]
    for number, act in enumerate(refused):
        try:
            act()
        except RuntimeError:
            continue
        raise AssertionError(f"{number} was not refused")
    layer, plain = torch.nn.Linear(3, 4).to(THERE), torch.nn.Linear(3, 4)
    plain.load_state_dict({name: value.cpu() for name, value in layer.state_dict().items()})
    for module, x in ((layer, a), (plain, a.cpu())):
        module(x).square().sum().backward()
    assert layer.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.equal(layer.weight.grad.cpu(), plain.weight.grad)
    assert (a * torch.tensor(2.0)).sum().item() == 30.0
    assert a[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]
    places = [x.device.type for x in (layer.weight, layer.weight.grad, a[0], a > 1, a.cpu())]
    assert places == [NAME] * 4 + ["cpu"]
    torch.randn(2, device=THERE, generator=torch.Generator(device=NAME))
    return 0


def pieces(at: Path) -> int:
    """What takes tensors wherever they lie, and is given those of the CPU by the commands."""
    import numpy as np

    from dinov3.dense import palette
    from dinov3.dense.depth_metrics import METRICS, evaluate_depth
    from dinov3.dense.foreground import foreground_iou, foreground_scores
    from dinov3.dense.heads import fit_ridge_head
    from dinov3.dense.matching.correspondence import match_homography, transfer
    from dinov3.dense.neighbours import class_shares, neighbour_votes, patch_bank
    from dinov3.dense.segmentation import areas, confusion, summary
    from dinov3.dense.video.frame_colours import FrameColours
    from dinov3.dense.video.propagation import NOTEBOOK, Tracker, one_hot, to_grid, to_mask
    from dinov3.dense.video.region_boundary import per_object
    from dinov3.dense.video.render import overlaid, save_mask
    from dinov3.eval.drift import drift
    from dinov3.eval.linear import fit_linear
    from dinov3.eval.logreg import fit_logreg

    labels = torch.arange(4, device=THERE).repeat(4, 16, 4)  # [4, 16, 16]
    maps, depth = torch.randn(4, 8, 4, 4, device=THERE), torch.rand(16, 16, device=THERE)
    patches = maps.flatten(2).mT  # [4, 16, 8]
    shares, known = class_shares(labels, (4, 4), 4)
    rows, of_rows = patch_bank(patches.flatten(0, 1), shares.flatten(0, 1), known.flatten(), seed=0, most=9)
    neighbour_votes(rows, of_rows, patches[0])
    fit_ridge_head(maps, shares, known)
    confusion([labels], [labels], 4)
    summary(areas(labels[0], labels[0], 4))
    foreground_iou(foreground_scores(patches, (4, 4)), shares[..., 0].view(4, 4, 4) > 0)
    for truth in (depth, torch.zeros_like(depth)):  # none of its pixels counts
        scores = evaluate_depth(depth, truth, low=0.1, high=0.9, align=True)[0]
        torch.stack([scores, torch.zeros(len(METRICS), device=THERE).double()])
    features = maps.permute(0, 2, 3, 1)
    points = torch.rand(3, 2, device=THERE) * 16
    transfer(features[0], features[1], points, points, 4, "bilinear")
    match_homography(features[0], features[1], torch.eye(3, device=THERE), 4)
    for variant in ("notebook", "dino"):
        small = to_grid(labels[0].byte(), (4, 4), variant)
        found = Tracker(features[0], one_hot(small, 4), NOTEBOOK).step(features[1])
        per_object(to_mask(found, (16, 16), variant), labels[0], [1, 2])
    pixels = FrameColours()(features[0], (16, 16))
    save_mask(labels[0], at / "mask.png")
    overlaid(pixels, labels[0])
    shown = [palette.coloured(labels[0], 4), palette.mistakes(labels[0], labels[1], 255)]
    shown.append(palette.heat(depth, 0, 1, depth > 0.5))
    torch.stack(shown)
    assert np.asarray(pixels).shape == (16, 16, 3)
    vectors, numbers = patches.flatten(0, 1), torch.arange(64, device=THERE) % 4
    fit_linear(vectors, numbers, n_classes=4, epochs=1)(vectors)
    fit_logreg(vectors, numbers, strengths=(1.0,))
    drift({"cls": vectors}, {"cls": vectors})
    return 0


def trained(at: Path) -> int:
    """Three steps with every look: k-NN, pictures, drift, dense."""
    from tests.eval.online.test_dense import DENSE, SHORT
    from tests.train.tiny import command

    more = {"train__max_steps": 3, "evaluation__pictures": "true", "evaluation__drift__enabled": "true"}
    return run("train", *command(at / "run", **{**SHORT, **DENSE, **more, "train__num_workers": 0}))


QUICK = ("steps=4", "warmup=1", "batch=4")
COMMANDS: dict[str, Callable[[Path], int]] = {
    "refusals": refusals,
    "pieces": pieces,
    "features": lambda at: run("features", "--weights", at / "weights", "--data", "Synthetic:n=6:size=32", "--out", at),
    "eval seg, ridge": lambda at: evaluated(at, "seg", "Synthetic:n=12:size=32", "probe=ridge", "foreground=2"),
    "eval seg, sgd": lambda at: evaluated(at, "seg", "Synthetic:n=12:size=32", "probe=sgd", "flip_tta=true", *QUICK),
    "eval depth, ridge": lambda at: evaluated(at, "depth", "Synthetic:n=12:size=32", "probe=ridge"),
    "eval depth, sgd": lambda at: evaluated(at, "depth", "Synthetic:n=12:size=32", "probe=sgd", *QUICK),
    "eval match": lambda at: evaluated(at, "match", "Synthetic:n=4:size=32", "debias_images=2"),
    "eval track": lambda at: evaluated(at, "track", "SyntheticVideo:n=1:length=4:size=32"),
    "video": video,
    "eval of labels": classified,
    "compress": compressed,
    "finetune classify, lora": lambda at: tuned(at, "finetune", "lora", model__method="lora"),
    "finetune classify, head": lambda at: tuned(at, "finetune", "head", model__method="head_only"),
    "finetune classify, all": lambda at: tuned(at, "finetune", "all"),
    "finetune segment, linear": lambda at: tuned(at, "segment", "linear", model__head="linear"),
    "finetune segment, masks": lambda at: tuned(at, "segment", "masks", model__frozen="false", optim__backbone_lr=1e-4),
    "finetune detect": lambda at: tuned(at, "detect", "boxes"),
    "finetune depth": lambda at: tuned(at, "depth", "depth"),
    "finetune recover": recovered,
    "dit": dit,
    "train": trained,
}


def main() -> None:
    if not start():
        print(json.dumps({"missing": "this torch has no accelerator written in Python"}))
        return
    choose_it()
    from tests.finetune.tiny import prepare

    with tempfile.TemporaryDirectory() as folder:
        at = prepare(Path(folder))
        for name in sys.argv[1:] or COMMANDS:
            before, error, code = accelerator_on_cpu.computed, None, 1
            try:
                with redirect_stdout(sys.stderr):
                    code = COMMANDS[name](at)
            except Exception as caught:  # noqa: BLE001 it is the answer
                traceback.print_exc()
                error = f"{type(caught).__name__}: {caught}"
            there = accelerator_on_cpu.computed - before
            print(json.dumps({"command": name, "code": code, "error": error, "there": there}), flush=True)


if __name__ == "__main__":
    main()
