"""A process group without other processes: to see what would be sent, before there is a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh

from dinov3.distributed.parallel import Parallel


@contextmanager
def group_of(processes: int) -> Iterator[None]:
    """A group of that size whose collectives return at once and do nothing; this process is number 0. None may be there."""
    if processes == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore  # torch's own, for its tests of sharding

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Imagined(Parallel):
    """Sharding over processes that do not exist."""

    def mesh(self) -> DeviceMesh:
        with unset_fake_temporarily():  # it reads the ranks it consists of
            return super().mesh()
