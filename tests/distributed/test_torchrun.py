"""The command under torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.train.tiny import command


def test_a_wrong_config_is_one_line_whatever_the_number_of_processes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "--master-port", str(port)]
    arguments += ["-m", "dinov3.train", *command(tmp_path / "run", student__patch_sice=8)]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(ours) == 1
    assert "student.patch_sice" in ours[0]
    assert not (tmp_path / "run").exists()
