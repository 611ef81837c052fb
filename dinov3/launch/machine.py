"""What this machine has that training depends on. Only facts: ``doctor`` judges them."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from dinov3.data.torchvision_compat import is_installed, operators_load
from dinov3.system.cores import cores
from dinov3.system.memory import available_memory
from dinov3.system.paths import expanded

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# extra of pyproject -> module that shows that it is there
EXTRAS = {
    "hf": "transformers",
    "onnx": "onnxruntime",
    "lmdb": "lmdb",
    "hdf5": "h5py",
    "parquet": "pyarrow",
    "eval": "sklearn",
    "tensorboard": "tensorboard",
    "quant": "torchao",
}


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int  # bytes
    capability: tuple[int, int]
    bf16: bool
    attention: tuple[str, ...]  # fast kernels that run, by a small trial


@dataclass(frozen=True)
class Folder:
    """The disk a run would be written to."""

    path: Path  # the nearest folder that exists
    writable: bool
    free: int  # bytes
    locks: bool  # flock works: one run a folder
    clock_skew: float  # seconds its clock is ahead of this machine's


@dataclass(frozen=True)
class Machine:
    python: str
    system: str
    torch: str
    torchvision: str | None  # None: not installed
    vision_operators: bool  # torchvision's compiled part fits this torch
    cuda_build: str | None  # CUDA that torch was built for
    driver: bool  # there is an NVIDIA driver
    gpus: tuple[Gpu, ...]
    nccl: str | None
    compiler: str | None  # path of a C compiler
    triton: bool
    cores: int  # this process may use
    memory: int  # bytes this process may use
    shm: int | None  # free bytes of /dev/shm
    open_files: int  # soft limit
    extras: dict[str, bool]
    wandb_key: bool
    sbatch: bool
    folder: Folder


def probe(out: Path) -> Machine:
    """Look at this machine and at the disk of ``out``; writes and removes one small file."""
    gpus = tuple(_gpu(i) for i in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=torch.__version__,
        torchvision=version("torchvision") if is_installed() else None,
        vision_operators=operators_load(),
        cuda_build=torch.version.cuda,
        driver=Path("/proc/driver/nvidia/version").exists(),
        gpus=gpus,
        nccl=".".join(map(str, torch.cuda.nccl.version())) if gpus and dist.is_nccl_available() else None,
        compiler=next(
            (found for c in (os.environ.get("CC"), "gcc", "cc", "clang") if c and (found := shutil.which(c))), None
        ),
        triton=importlib.util.find_spec("triton") is not None,
        cores=cores(),
        memory=available_memory(),
        shm=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        extras={extra: importlib.util.find_spec(module) is not None for extra, module in EXTRAS.items()},
        wandb_key="WANDB_API_KEY" in os.environ or "api.wandb.ai" in _text(expanded("~/.netrc")),
        sbatch=shutil.which("sbatch") is not None,
        folder=_folder(out),
    )


def _gpu(index: int) -> Gpu:
    about = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if bf16 else torch.float16
        attention = tuple(name for name, backend in BACKENDS.items() if _runs(backend, index, dtype))
    return Gpu(about.name, about.total_memory, (about.major, about.minor), bf16, attention)


def _runs(backend: SDPBackend, index: int, dtype: torch.dtype) -> bool:
    q = torch.ones(1, 2, 64, 64, device=f"cuda:{index}", dtype=dtype)  # [N, heads, T, D]
    try:
        with sdpa_kernel(backend):
            return bool(torch.isfinite(scaled_dot_product_attention(q, q, q)).all())
    except RuntimeError:  # what torch raises where a kernel does not exist
        return False


def _folder(out: Path) -> Folder:
    path = next(p for p in (out.absolute(), *out.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(path).free
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".dinov3-doctor-") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks = True
            except OSError:
                locks = False
            return Folder(path, True, free, locks, os.stat(file.name).st_mtime - time.time())
    except OSError:
        return Folder(path, False, free, False, 0.0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
