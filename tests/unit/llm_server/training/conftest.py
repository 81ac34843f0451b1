"""A training run in a process of its own that is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

#: Module of tests, folder of the run, kind of stage, step within it.
Killed = Callable[[Path, Path, str, int], None]

_RUN = """
import importlib.util, os, signal, sys
from pathlib import Path
file, out, stage, at = sys.argv[1:]
spec = importlib.util.spec_from_file_location("cut", file)
module = importlib.util.module_from_spec(spec)
sys.modules["cut"] = module
spec.loader.exec_module(module)
def kill(number, kind, step, steps, loss):
    if (kind, step) == (stage, int(at)):
        os.kill(os.getpid(), signal.SIGKILL)
module.run(Path(out), step_done=kill)
"""


@pytest.fixture
def run_killed(pytestconfig: pytest.Config) -> Killed:
    """Calls `run(out, step_done=...)` of a module of tests and kills the process when a step is done."""
    import torch

    def run(module: Path, out: Path, stage: str, step: int) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(module), str(out), stage, str(step)],
            check=False,
            capture_output=True,
            timeout=1200,
            env={
                **os.environ,
                "PYTHONPATH": str(pytestconfig.rootpath),
                # Another number of threads adds up in another order.
                "OMP_NUM_THREADS": str(torch.get_num_threads()),
            },
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]

    return run
