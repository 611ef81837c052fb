"""``dinov3 doctor``: is this machine ready to train, and if not, what to do."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from dinov3.engine.precision import resolve_block
from dinov3.launch.machine import Machine
from dinov3.system.errors import EXIT_DONE
from dinov3.system.paths import expanded

EXIT_UNFIT = 1
WIDTH, INDENT = 100, 23
GB = 1e9
EPILOG = "exit codes: 0 no line says fail, 1 at least one does, 78 the config cannot be used"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    about: str
    status: Literal["ok", "warn", "fail"]
    what: str
    advice: str = ""  # what to do; empty when all is well

    def text(self) -> str:
        """At most ``WIDTH`` columns wide, but for a long path."""
        head = f"  {self.status:<4}  {self.about:<13}  "
        lines = _wrapped(self.what, head, " " * INDENT)
        if self.advice:
            lines += _wrapped(self.advice, " " * INDENT + "-> ", " " * (INDENT + 3))
        return "\n".join(lines)


def _wrapped(text: str, first: str, others: str) -> list[str]:
    # a path stays whole, however long: it is there to be copied
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 doctor``."""
    parser.description = (
        "Is this machine ready to train? Looks at packages, GPUs, kernels, cores, memory, limits, disk."
    )
    parser.epilog = EPILOG
    parser.add_argument("--config-file", type=config_file, help="judge for this run (default: the default config)")
    parser.add_argument(
        "--output-dir", type=expanded, help="judge the disk of this run folder (default: train.output_dir)"
    )
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, as for `dinov3 train`")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    cfg = load_config(args.config_file, args.opts)
    from dinov3.launch.machine import probe

    findings = examine(probe(args.output_dir or Path(cfg.train.output_dir)), cfg, checkpoint_bytes(cfg))
    counts = {status: sum(f.status == status for f in findings) for status in ("fail", "warn")}
    if args.json:
        print(json.dumps([asdict(f) for f in findings], indent=1))
    else:
        print("\n".join(["dinov3 doctor", *[f.text() for f in findings], "", summary(counts)]))
    return EXIT_UNFIT if counts["fail"] else EXIT_DONE


def summary(counts: dict[str, int]) -> str:
    """The last line."""
    if counts["fail"]:
        return f"not ready: {counts['fail']} to repair, {counts['warn']} to look at"
    return f"ready, {counts['warn']} to look at" if counts["warn"] else "ready"


def examine(machine: Machine, cfg: Config, checkpoint: int | None) -> list[Finding]:
    """All findings, in the order they are shown. ``checkpoint``: bytes of one, None when that is not known."""
    return [
        Finding("python", "ok", f"{machine.python} on {machine.system}"),
        *_torch(machine, cfg),
        *_speed(machine, cfg),
        *_loading(machine, cfg),
        *_limits(machine),
        *_disk(machine, cfg, checkpoint),
        *_packages(machine, cfg),
    ]


def _torch(machine: Machine, cfg: Config) -> Iterator[Finding]:
    build = f"CUDA {machine.cuda_build}" if machine.cuda_build else "CPU only"
    vision = (
        "no torchvision (detectors need it)" if machine.torchvision is None else f"torchvision {machine.torchvision}"
    )
    versions = f"{machine.torch}, {vision}, {build}"
    if machine.driver and not machine.cuda_build:
        yield Finding(
            "torch", "warn", versions, "there is an NVIDIA driver: install a torch built for CUDA (pytorch.org)"
        )
    elif machine.torchvision is not None and not machine.vision_operators:
        advice = (
            "training and exports work: this program stands in for what is missing. Other programs here cannot even "
            "`import torchvision`, nor transformers load an export: install both from one index (pytorch.org)"
        )
        yield Finding("torch", "warn", f"{versions}; torchvision was built for another torch", advice)
    else:
        yield Finding("torch", "ok", versions)
    if not machine.gpus:
        wanted = cfg.train.device == "cuda"
        why = "torch sees none"
        yield Finding(
            "gpu",
            "fail" if wanted else "warn",
            f"{why}, but train.device is cuda" if wanted else f"{why}: training runs on the CPU",
            "on a GPU machine look at `nvidia-smi`, CUDA_VISIBLE_DEVICES and the CUDA version of torch above",
        )
        return
    kinds = dict.fromkeys(
        f"{g.name}, {g.memory / GB:.0f} GB, capability {g.capability[0]}.{g.capability[1]}" for g in machine.gpus
    )
    mixed = len(kinds) > 1
    what = f"{len(machine.gpus)} x {' and '.join(kinds)}"
    yield Finding(
        "gpu", "warn" if mixed else "ok", what, "the slowest sets the pace: choose equal ones" if mixed else ""
    )
    if len(machine.gpus) > 1:
        if machine.nccl:
            yield Finding("nccl", "ok", machine.nccl)
        else:
            yield Finding(
                "nccl", "fail", "not in this torch: several GPUs cannot train together", "install a torch with NCCL"
            )


def _speed(machine: Machine, cfg: Config) -> Iterator[Finding]:
    """Number formats and what will be fused."""
    if machine.gpus:
        bf16, asked = all(g.bf16 for g in machine.gpus), cfg.compute_precision.param_dtype
        what = "fp32, as compute_precision.param_dtype says" if asked == "fp32" else "bf16 autocast" if bf16 else "fp32"
        slow = asked != "fp32" and not bf16
        advice = "a GPU has no bf16 (capability below 8.0): expect half the speed and twice the memory" if slow else ""
        yield Finding("precision", "warn" if slow else "ok", what, advice)
        kernels = [k for k in machine.gpus[0].attention if all(k in g.attention for g in machine.gpus)]
        yield Finding(
            "attention",
            "ok" if kernels else "warn",
            f"fused: {', '.join(kernels)}"
            if kernels
            else "no fused kernel runs: slow, and memory grows with tokens squared",
            "" if kernels else "update torch and the driver",
        )
    else:
        asked_here = cfg.compute_precision
        chosen = resolve_block(asked_here, torch.device("cpu"))
        yield Finding("precision", "ok", f"{chosen.name}: {chosen.reason}")
    yield Finding("optimizer", "ok", "fused AdamW; EMA and gradient norms over all tensors at once")
    if not machine.gpus or not cfg.train.compile:
        yield Finding(
            "compile", "ok", "off: it pays on GPUs only" if cfg.train.compile else "off: train.compile is false"
        )
    elif machine.triton and machine.compiler:
        yield Finding("compile", "ok", f"on: backbones, heads and frozen teachers; triton, {machine.compiler}")
    else:
        missing = " and ".join(
            name for name, there in (("triton", machine.triton), ("a C compiler", machine.compiler)) if not there
        )
        yield Finding(
            "compile",
            "fail",
            f"train.compile is on, but there is no {missing}",
            f"install {missing}, or train.compile=false",
        )


def _loading(machine: Machine, cfg: Config) -> Iterator[Finding]:
    processes = max(1, len(machine.gpus))
    usable = max(1, machine.cores // processes)
    workers = cfg.train.num_workers
    cores = f"{machine.cores} cores, {processes} process{'es' if processes > 1 else ''}, train.num_workers {workers}"
    if workers > usable:
        advice = f"{usable} workers a process will be used; ask for more cores (`dinov3 submit --cpus-per-task`) if data wait is high"
        yield Finding("cores", "warn", cores, advice)
    elif workers == 0:
        yield Finding("cores", "warn", cores, "images are decoded between the steps: set train.num_workers to a few")
    else:
        yield Finding("cores", "ok", cores)
    low = machine.memory < 4 * GB * processes
    advice = "loader workers may be killed: free memory, or lower train.num_workers and train.batch_size_per_gpu"
    yield Finding("memory", "warn" if low else "ok", f"{machine.memory / GB:.1f} GB available", advice if low else "")


def _limits(machine: Machine) -> Iterator[Finding]:
    small = machine.shm is not None and machine.shm < 1 * GB and len(machine.gpus) > 1
    size = "none" if machine.shm is None else f"{machine.shm / GB:.2f} GB free in /dev/shm"
    advice = "NCCL needs it between GPUs: start the container with --shm-size=8g or --ipc=host" if small else ""
    yield Finding("shared memory", "warn" if small else "ok", f"{size}; the loader does not use it", advice)
    few = machine.open_files < 4096
    advice = "`ulimit -n 65536` before the start, or in the setup lines of a job" if few else ""
    yield Finding("open files", "warn" if few else "ok", f"at most {machine.open_files}", advice)


def _disk(machine: Machine, cfg: Config, checkpoint: int | None) -> Iterator[Finding]:
    folder = machine.folder
    if not folder.writable:
        yield Finding(
            "disk", "fail", f"{folder.path} cannot be written", "choose another --output-dir, or get the right to write"
        )
        return
    kept = (cfg.checkpointing.max_to_keep or 3) + 1  # the next one is written before the oldest goes
    what = f"{folder.free / GB:.1f} GB free in {folder.path}"
    if checkpoint is None:
        yield Finding(
            "disk", "ok" if folder.free > 10 * GB else "warn", what, "" if folder.free > 10 * GB else "make room"
        )
    else:
        need = checkpoint * kept
        status: Literal["ok", "warn", "fail"] = (
            "fail" if folder.free < 2 * checkpoint else "warn" if folder.free < need else "ok"
        )
        advice = f"make room for {need / GB:.1f} GB, lower checkpointing.max_to_keep, or choose another --output-dir"
        what += f"; a checkpoint takes {checkpoint / GB:.2f} GB, at most {kept} lie there at once"
        yield Finding("disk", status, what, "" if status == "ok" else advice)
    if not folder.locks:
        yield Finding(
            "locks", "warn", "this file system has no flock", "nothing stops two runs in one folder: take care"
        )
    skewed = abs(folder.clock_skew) > 5
    advice = "two machines disagree: have their clocks synchronised (chrony, ntpd)" if skewed else ""
    yield Finding(
        "clock", "warn" if skewed else "ok", f"{folder.clock_skew:+.1f} s between the disk's and this machine's", advice
    )


def _packages(machine: Machine, cfg: Config) -> Iterator[Finding]:
    there = [name for name, found in machine.extras.items() if found]
    absent = [name for name, found in machine.extras.items() if not found]
    what = f"{', '.join(there) or 'none'} installed" + (
        f"; for the rest: pip install 'dinov3[{','.join(absent)}]'" if absent else ""
    )
    needed = [name for name in absent if name == "tensorboard" and cfg.logging.tensorboard]
    advice = f"this config needs {needed[0]}: pip install 'dinov3[{needed[0]}]'" if needed else ""
    yield Finding("extras", "fail" if needed else "ok", what, advice)
    if cfg.wandb.enabled:
        keyless = cfg.wandb.mode == "online" and not machine.wandb_key
        advice = "`wandb login`, or set WANDB_API_KEY; without it the run logs offline" if keyless else ""
        yield Finding(
            "wandb", "warn" if keyless else "ok", f"{cfg.wandb.mode}{', no key found' if keyless else ''}", advice
        )
    slurm = (
        "sbatch is here: `dinov3 submit`"
        if machine.sbatch
        else "no sbatch here; `dinov3 submit --dry-run` and --local work"
    )
    yield Finding("slurm", "ok", slurm)


def checkpoint_bytes(cfg: Config) -> int | None:
    """Size of the state of this run; None when a teacher's file would have to be read to know it."""
    if cfg.da3.enabled or cfg.distillation.enabled:
        return None
    from dinov3.train.ssl_meta_arch import SSLMetaArch

    model = SSLMetaArch(cfg, "meta")
    moments = sum(2 * p.nbytes for p in model.parameters() if p.requires_grad)
    return moments + sum(t.nbytes for t in model.checkpoint_state().values())
