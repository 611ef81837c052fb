"""One process, whole copies, shards and shards within a machine: the same training, and the same checkpoints."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from dinov3.data.loader import CropLoader
from dinov3.data.sources import parse_dataset
from dinov3.distributed import context
from dinov3.distributed.collectives import all_reduce_mean
from dinov3.distributed.parallel import choose
from dinov3.distributed.shard import local, shard, whole
from dinov3.engine.life import run
from dinov3.engine.optim import build_optimizer, clip_per_submodule
from dinov3.engine.precision import Precision
from dinov3.models.convnext import ConvNeXt
from dinov3.runs.checkpoint import load_tensors, read_tensors
from dinov3.runs.folder import RunFolder
from dinov3.runs.state import allocate_optimizer_state, digest, training_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.teachers.da3 import Da3Teacher
from dinov3.train import job
from dinov3.train.command import main
from dinov3.train.job import PretrainingJob
from dinov3.train.model import build_model
from dinov3.train.parallelize import blocks_of
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.weights.own import load_backbone
from tests.distributed.processes import Phase, Run, run_phases
from tests.train.tiny import command, tiny_config

STEPS, BATCH = 6, 12
# Drop path draws by process, and KoLeo must see the whole batch. With LayerScale 1e-5 all class tokens are almost equal
# at first, and KoLeo's log of their distances (9.3 in this model) turns the last bit of a sum into per cents.
# 65 and 47 prototypes are divisible by none of 2, 3 and 4 processes; a class token [1, 1, 56] leaves shards empty.
SAME = {
    "student__drop_path_rate": 0.0,
    "student__layerscale": 1.0,
    "student__embed_dim": 56,
    "dino__head_bottleneck_dim": 31,
    "dino__head_n_prototypes": 65,
    "ibot__head_n_prototypes": 47,
    "dino__koleo_loss_distributed": "true",
    "evaluation__pictures": "false",
    "checkpointing__max_to_keep": "null",
    "resume__allow": "[train.batch_size_per_gpu]",
}
CONTINUED = {
    "lora__enabled": "true",
    "lora__rank": 3,
    "head_warmup__when": "always",
    "head_warmup__steps": 2,
    "feature_anchor__enabled": "true",
}
TEACHERS = {
    "gram__use_loss": "true",
    "gram__img_level": "true",  # else similarities are those of all tokens of a process
    "gram__it_load_ema_teacher": 1,
    "gram__rep_update": "true",
    "gram__it_first_update": 2,
    "gram__update_frequency": 1,
    "da3__enabled": "true",
    "da3__random_init": "true",
    "da3__variant": "small",
    "da3__dtype": "fp32",
    "da3__use_fsdp": "true",
}


def training(
    name: str, n: int, until: int = STEPS, strategy: str = "auto", per_machine: int | None = None, **changes: object
) -> Phase:
    precision = {"compute_precision__sharding_strategy": strategy}
    return Phase(
        Run(name, until, {**SAME, **precision, "train__batch_size_per_gpu": BATCH // n, **changes}), n, per_machine
    )


def digest_of_resumed_state(folder: Path) -> None:
    """What a third process count makes of the checkpoint two processes wrote: state.txt, and what each one holds."""
    cfg = tiny_config(**SAME, compute_precision__sharding_strategy="FULL_SHARD")
    model, _ = build_model(cfg, torch.device("cpu"))
    optimizer = build_optimizer(model.get_params_groups(), cfg.optim)
    allocate_optimizer_state(optimizer)
    tensors = training_tensors(model, model.checkpoint_state(), optimizer)
    load_tensors(tensors, folder / "chain" / "ckpt" / "step-00000002" / "state")
    parameters = [p for p in model.parameters() if isinstance(p, DTensor)]
    assert len(parameters) == len(list(model.parameters()))
    share = sum(p.to_local().numel() for p in parameters) / sum(p.numel() for p in parameters)
    (folder / f"share-{context.rank()}.txt").write_text(str(share))
    value = digest(tensors)
    if context.is_main():
        (folder / "digest.txt").write_text(value)


def initial_state(folder: Path) -> None:
    """The digest of a sharded model at its start."""
    model, _ = build_model(tiny_config(**SAME, compute_precision__sharding_strategy="FULL_SHARD"), torch.device("cpu"))
    value = digest(model.state_dict())
    if context.is_main():
        (folder / "initial.txt").write_text(value)


def half_precision_step(folder: Path) -> None:
    """One step in bf16: loss, gradient norms and number formats of this process."""
    cfg = tiny_config(
        **SAME,
        compute_precision__sharding_strategy="FULL_SHARD",
        train__batch_size_per_gpu=BATCH // context.world_size(),
    )
    model = SSLMetaArch(cfg, "cpu", Precision(torch.bfloat16, torch.device("cpu"), "the test says so"))
    model.init_weights(torch.Generator().manual_seed(0))
    model.prepare_for_distributed_training()
    seen: set[torch.dtype] = set()
    block = blocks_of(model.student["backbone"])[0]
    block.register_forward_hook(lambda module, *_: seen.update(p.dtype for p in module.parameters()), prepend=True)
    shared = {"position": 0, "rank": context.rank(), "world_size": context.world_size()}
    with CropLoader(
        cfg, parse_dataset(cfg.train.dataset_path), **shared, device=torch.device("cpu"), dtype=torch.float32
    ) as loader:
        loss, _ = model.forward_backward(next(loader), teacher_temp=0.04, iteration=0)
    norms = clip_per_submodule(model.student, None)
    dtypes = {p.grad.dtype for p in model.student.parameters() if p.grad is not None}
    result = {"loss": all_reduce_mean(loss.detach()), "norms": norms, "gathered": seen, "gradients": dtypes}
    torch.save(result, folder / f"half-{context.world_size()}-{context.rank()}.pt")


def small_convnext() -> tuple[ConvNeXt, torch.Tensor]:
    """Its last norm has two names, as in the published files."""
    model = ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 12, 16, 20), layer_scale_init_value=1.0)
    generator = torch.Generator().manual_seed(0)
    model.init_weights(generator)
    return model, torch.randn(2, 3, 64, 64, generator=generator)


def convnext_gradients(folder: Path) -> None:
    model, images = small_convnext()
    kinds = {"param_dtype": torch.float32, "reduce_dtype": torch.float32, "device_type": "cpu"}
    parallel = choose("SHARD_GRAD_OP", trained=0, frozen=0, per_machine=2, **kinds)
    shard(model, blocks_of(model), parallel, trains=True)
    model(images).square().mean().backward()
    gradients = {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    if context.is_main():
        torch.save(gradients, folder / "convnext.pt")


def one_process_has_no_data(folder: Path) -> None:
    """The command on two processes, the second of which cannot open the data set: exit code and stderr of each."""
    said, rank = io.StringIO(), context.rank()  # the command leaves the group
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stderr(said):
        if rank == 1:
            patched.setattr(job, "checked_source", lambda *_: parse_dataset("/nowhere"))
        code = main(command(folder / "no-data", **SAME))
    (folder / f"no-data-{rank}.txt").write_text(f"{code} {said.getvalue()}")


def stopped_by_an_evaluation(folder: Path) -> None:
    """Shards that end below a limit, with the pictures of the end to draw; it hangs when not all take part in them."""
    rule = {
        "evaluation__drift__enabled": "true",
        "evaluation__drift__dataset": "Synthetic:n=8:size=40",
        "evaluation__drift__images": 8,
        "evaluation__drift__period": 1,
        "evaluation__drift__stop_below": 0.999999,
        "optim__lr": 0.05,
        "evaluation__pictures": "true",
        "compute_precision__sharding_strategy": "FULL_SHARD",
    }
    cfg = tiny_config(**{**SAME, **rule, "train__batch_size_per_gpu": BATCH // context.world_size()})
    assert run(PretrainingJob(cfg, RunFolder(folder / "below")), resume=True) == 71


def depth_anything_tokens(folder: Path) -> None:
    teacher, tokens = tokens_of_depth_anything()
    assert teacher.sharded == (context.world_size() > 1)
    own = sum(local(p).numel() for p in teacher.encoder.parameters())
    result = {"tokens": tokens, "share": own / sum(p.numel() for p in teacher.encoder.parameters())}
    torch.save(result, folder / f"da3-{context.rank()}.pt")


def tokens_of_depth_anything() -> tuple[Da3Teacher, torch.Tensor]:
    teacher = Da3Teacher(tiny_config(**TEACHERS), torch.device("cpu"))
    return teacher, teacher.tokens(torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0)), (4, 4))


PHASES = [
    Phase(depth_anything_tokens, 2),
    Phase(one_process_has_no_data, 2),
    training("alone", 1),
    training("copies", 2, strategy="NO_SHARD"),
    training("once", 2, strategy="SHARD_GRAD_OP"),
    training("twice", 2, strategy="FULL_SHARD", train__checkpointing="true"),
    training("hybrid", 4, 3, strategy="HYBRID_SHARD", per_machine=2),
    training("hybrid", 2, strategy="NO_SHARD"),
    training("chain", 2, 2, strategy="FULL_SHARD"),
    Phase(digest_of_resumed_state, 3),
    training("chain", 3, 4, strategy="SHARD_GRAD_OP"),
    training("chain", 1),
    Phase(initial_state, 2),
    Phase(stopped_by_an_evaluation, 2),
    Phase(half_precision_step, 1),
    Phase(half_precision_step, 2),
    training("accumulated", 2, 3, "FULL_SHARD", train__gradient_accumulation_steps=2, train__batch_size_per_gpu=3),
    Phase(convnext_gradients, 3),
    training("continued-1", 1, 4, **CONTINUED),
    training("continued-2", 2, 4, "SHARD_GRAD_OP", **CONTINUED),
    training("teachers-1", 1, 4, **TEACHERS),
    training("teachers-2", 2, 4, strategy="SHARD_GRAD_OP", **TEACHERS),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run_phases(PHASES, folder)
    return folder


def rows(out: Path) -> dict[str, torch.Tensor]:
    """Every loss and gradient norm of a run: name -> one value a step."""
    metrics = read_rows(out / "metrics.jsonl")
    names = [k for k in metrics[-1] if "loss" in k or "grad_norm" in k or k.startswith("da3_")]
    return {name: torch.tensor([row.get(name, 0.0) for row in metrics]) for name in names}


def assert_same_training(out: Path, reference: Path) -> None:
    ours, theirs = rows(out), rows(reference)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        rtol = 1e-4 if "norm" in name else 1e-5  # a gradient norm answers to every last bit of the weights
        torch.testing.assert_close(values, theirs[name], rtol=rtol, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(
            values[0],
            theirs[name][0],
            rtol=2e-5 if "norm" in name else 1e-6,
            atol=1e-6,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    states = [read_tensors(step_folders(r)[-1] / "state", prefix="model_ema.") for r in (out, reference)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["copies", "once", "twice"])
def test_two_processes_train_as_one_does_on_the_joined_batch(folder: Path, name: str) -> None:
    assert len(rows(folder / name)["total_loss"]) == STEPS
    assert_same_training(folder / name, folder / "alone")


@pytest.mark.parametrize("name", ["chain", "hybrid"])
def test_a_run_goes_on_with_other_processes_and_another_strategy(folder: Path, name: str) -> None:
    samples = [row["samples"] for row in read_rows(folder / name / "metrics.jsonl")]
    assert samples == [BATCH * (i + 1) for i in range(STEPS)]
    assert_same_training(folder / name, folder / "alone")


def test_a_resumed_state_is_the_saved_one_bit_by_bit_and_each_process_holds_a_third(folder: Path) -> None:
    saved = read_tensors(folder / "chain" / "ckpt" / "step-00000002" / "state", prefix="")
    assert (folder / "digest.txt").read_text() == digest(saved)
    shares = [float((folder / f"share-{rank}.txt").read_text()) for rank in range(3)]
    assert sum(shares) == pytest.approx(1.0)
    assert max(shares) < 0.4


def test_a_sharded_model_starts_with_the_numbers_of_a_whole_one(folder: Path) -> None:
    model, _ = build_model(tiny_config(**SAME), torch.device("cpu"))
    assert (folder / "initial.txt").read_text() == digest(model.state_dict())


def test_gram_and_depth_anything_teachers_say_the_same_to_sharded_students(folder: Path) -> None:
    assert "gram_loss" in rows(folder / "teachers-2")
    assert_same_training(folder / "teachers-2", folder / "teachers-1")


def test_adapters_and_a_head_warmup_train_in_shards_too(folder: Path) -> None:
    assert_same_training(folder / "continued-2", folder / "continued-1")


def test_a_sharded_teacher_says_the_same_and_each_process_keeps_half(folder: Path) -> None:
    teacher, expected = tokens_of_depth_anything()
    assert not teacher.sharded, "one process has nothing to share with"
    for rank in range(2):
        result = torch.load(folder / f"da3-{rank}.pt")
        torch.testing.assert_close(result["tokens"], expected, rtol=0, atol=1e-6)
        assert 0.45 < result["share"] < 0.55


def test_accumulated_batches_add_up_in_shards(folder: Path) -> None:
    ours, reference = rows(folder / "accumulated"), rows(folder / "alone")
    for name in ("total_loss", "koleo_loss", "backbone_grad_norm"):
        torch.testing.assert_close(ours[name], reference[name][:3], rtol=1e-4, atol=1e-6)


def test_a_sharded_convnext_has_the_gradients_of_a_whole_one(folder: Path) -> None:
    model, images = small_convnext()
    model(images).square().mean().backward()
    sharded = torch.load(folder / "convnext.pt")
    assert sharded.keys() == {n for n, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(sharded[name], parameter.grad, rtol=1e-5, atol=1e-7)


def test_gathered_weights_are_bf16_and_gradients_fp32(folder: Path) -> None:
    alone = torch.load(folder / "half-1-0.pt")
    assert alone["gathered"] == {torch.float32}  # autocast casts them, matrix product by matrix product
    for rank in range(2):
        sharded = torch.load(folder / f"half-2-{rank}.pt")
        assert (sharded["gathered"], sharded["gradients"]) == ({torch.bfloat16}, {torch.float32})
        torch.testing.assert_close(sharded["loss"], alone["loss"], rtol=1e-2, atol=0)
        for name, norm in sharded["norms"].items():
            torch.testing.assert_close(norm, alone["norms"][name], rtol=0.05, atol=0)


def test_shards_stopped_by_an_evaluation_save_and_draw(folder: Path) -> None:
    assert step_folders(folder / "below")
    assert (folder / "below" / "pca.png").is_file()


def test_what_one_process_lacks_ends_all_with_one_line(folder: Path) -> None:
    said = [(folder / f"no-data-{rank}.txt").read_text() for rank in range(2)]
    assert said[0].startswith("78 error: process 1: /nowhere: ")
    assert said[0].count("\n") == 1
    assert said[1] == "78 "
    assert not (folder / "no-data").exists()


def test_one_process_loads_the_backbone_a_sharded_run_wrote(folder: Path) -> None:
    backbone = load_backbone(folder / "twice")
    stored = read_tensors(step_folders(folder / "twice")[-1] / "state", prefix="model_ema.backbone.")
    assert all(torch.equal(v, stored[k]) for k, v in backbone.state_dict().items())
