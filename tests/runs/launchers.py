"""``python -m tests.runs.launchers``: the documented ways to start two processes, each against one process alone."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import entropylab

from .stub import check

LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--nproc_per_node", "2"),
    "torchrun that may restart": ("torch.distributed.run", "--max-restarts", "2", "--nproc_per_node", "2"),
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    "accelerate --cpu": ("accelerate.commands.launch", "--cpu", "--num_processes", "2"),
}
ALONE = "accelerate --cpu"
"""The one that starts a single process, which must be said."""

WORK = shlex.split("measure --device cpu --sizes 32 48 --samples 8 --batch-size 2 --steps 2 --out")


def main() -> None:
    """Measure with the embedded pipeline, once alone, and with every launcher, with and without --overwrite."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        run("alone", (), Path(folder) / "alone")
        expected = entropylab.open(Path(folder) / "alone")
        for name, launcher in LAUNCHERS.items():
            for more in ((), ("--overwrite",)):
                out = Path(folder) / f"{name} {''.join(more)}"
                said = run(name, launcher, out, *more)
                check(entropylab.open(out), expected)
                if (name == ALONE) != ("one process is at work" in said):
                    raise AssertionError(f"{name} says: {said}")
                print(f"{name} {' '.join(more)}: as one process")


def run(name: str, launcher: tuple[str, ...], out: Path, *more: str) -> str:
    """Start the command; what it says."""
    command = [sys.executable, *(("-m", *launcher) if launcher else ()), "-m", "entropylab", *WORK, str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{name} failed:\n{done.stderr}")
    return done.stderr


if __name__ == "__main__":
    main()
