"""``python -m tests.benchmarks``: print a table of ratios, and write them as JSON named after the device."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

from entropylab.measuring.provenance import versions

from . import embedded, full_size, kernel, scaling

TESTS = ("tests/entropy",)
RESULTS = Path(__file__).parent / "results"


def device_name() -> str:
    """What the benchmark ran on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        model = found.group(1).strip() if found else model
    return f"{model}, {os.cpu_count()} cores"


BENCHMARKS = {"kernel": kernel, "embedded": embedded, "full_size": full_size, "scaling": scaling}


def main() -> None:
    """Run the benchmarks, unless the backends' own tests fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", help=f"some of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument(
        "--repeats", type=int, default=7, help="rounds in which the contestants take turns (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON (%(default)s)")
    given = parser.parse_args()
    if unknown := set(given.which) - set(BENCHMARKS):
        parser.error(f"which must be some of {', '.join(BENCHMARKS)}. Got {', '.join(sorted(unknown))}.")
    if subprocess.run([sys.executable, "-m", "pytest", "-q", *TESTS], check=False).returncode:
        sys.exit("the tests of the backends fail: no benchmark of code that is wrong")
    for name in given.which or BENCHMARKS:
        found = BENCHMARKS[name].run(given.repeats)
        print(pd.DataFrame(found).to_string(index=False, float_format="{:.3f}".format))
        print(written(name, found, given.repeats, given.out))


def written(name: str, rows: list[dict], repeats: int, folder: Path) -> Path:
    """The file with a benchmark's rows, named after the device, with the versions of what decides the numbers."""
    device = device_name()
    folder = folder / re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    about = {"device": device, "threads": torch.get_num_threads(), "versions": versions(), "repeats": repeats}
    path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
