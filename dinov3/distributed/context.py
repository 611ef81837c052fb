"""The process group, and what a process knows about itself. One process is a cluster of one: no group is needed."""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed as dist

from dinov3.config.errors import ConfigError
from dinov3.distributed.allocation import refuse_unused_gpus
from dinov3.system.memory import keep_freed_memory


def is_initialized() -> bool:
    """True when a process group exists. Asked for only inside ``dinov3.distributed``."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """How many processes train together, 1 when alone."""
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """True in the one process that writes files and prints."""
    return rank() == 0


def local_rank() -> int:
    """This process's number on its machine, as torchrun gives it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def per_machine(part: range | None = None) -> int:
    """This run's processes on one machine; 0 when some machine has more of them than another.

    ``part``: which of all that were started they are; None: all.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))
    if part is None:
        return here
    first, last = part[0] // here, part[-1] // here
    if first == last:
        return len(part)
    return here if part.start % here == 0 and part.stop % here == 0 else 0


def choose_device(device: str = "auto") -> torch.device:
    """``auto`` is the GPU of this process's local rank when there is one, the CPU otherwise.

    ConfigError when there is none although ``cuda`` was asked for, or GPUs were given to this process.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("config", "train.device", "cuda, but torch sees no GPU: use auto or cpu")
    if kind == "cpu" and device == "auto":
        refuse_unused_gpus()
    # a launcher may show each process one GPU only, which is number 0 then
    number = local_rank() if local_rank() < torch.cuda.device_count() else 0
    chosen = torch.device(kind, number) if kind == "cuda" else torch.device(kind)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def backend_of(device: torch.device) -> str:
    """What carries tensors of this device between processes."""
    return "nccl" if device.type == "cuda" else "gloo"


def _backends(device: torch.device) -> str:
    """What carries tensors of each device: on GPUs also gloo, for objects that live on the host."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _device_id(device: torch.device) -> torch.device | None:
    """NCCL connects at once when it knows the device, and ``barrier`` need not guess it."""
    return device if device.type == "cuda" else None


def setup(device: str = "auto", timeout: float = 1800.0) -> torch.device:
    """Join the group torchrun describes, if it describes one and none was joined, and return the device to use.

    ``timeout`` (seconds): how long a process may wait for the others in a collective. ``device`` as in ``choose_device``.
    On a CPU the process keeps the memory of large tensors that are freed (``keep_freed_memory``).
    """
    chosen = choose_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_initialized():
        wait = datetime.timedelta(seconds=timeout)
        dist.init_process_group(_backends(chosen), timeout=wait, device_id=_device_id(chosen))
    return chosen


def setup_part(ranks: range, number: int, store: dist.Store, device: torch.device, timeout: float) -> None:
    """Join a group of the processes ``ranks`` of all that were started, as number ``number`` of them.

    From here on it is the group: to the run inside, the other processes do not exist. ``store`` is this group's own.
    """
    if len(ranks) > 1:
        wait = datetime.timedelta(seconds=timeout)
        dist.init_process_group(
            _backends(device),
            store=store,
            rank=number,
            world_size=len(ranks),
            timeout=wait,
            device_id=_device_id(device),
        )


def second_group(timeout: float) -> dist.ProcessGroup | None:
    """Another group of all processes, over the CPU, for a thread of its own: its collectives cannot mix with training's.

    Every process must ask, ``teardown`` leaves it; None when alone. ``timeout`` in seconds, as in ``setup``.
    """
    if not is_initialized():
        return None
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout))
    return group


def is_loss_of_a_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended; also asked when the group is already left."""
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "recvValue failed")
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return not alone and (isinstance(error, dist.DistNetworkError) or any(text in str(error) for text in lost))


def teardown() -> None:
    """Leave the group."""
    if is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for every process."""
    if is_initialized():
        dist.barrier()
