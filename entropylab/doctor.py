"""``entropylab doctor``: is entropylab right on this machine? In about a minute, with all that a bug report needs.

Every backend that can be used here is held against float64, and a pipeline is sampled with and without being recorded:
are the pictures the same, does anything wait for the GPU, what does it cost?
"""

import getpass
import itertools
import json
import os
import platform
import socket
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .bars import quiet
from .entropy import BACKENDS, row_statistics
from .entropy.choice import why_not
from .entropy.rows import check_rows
from .errors import EntropyLabError, EntropyLabWarning, check_int, one_line
from .measuring.provenance import versions
from .models import load
from .models.prompts import default_prompts, default_settings
from .sizes import size_label

PACKAGES = ("entropylab", "torch", "diffusers", "transformers", "accelerate", "triton", "numpy", "xarray", "h5netcdf")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTHS = (40, 64, 80, 128, 160)
STATISTICS = ("entropy", "lse", "mean", "variance", "third", "fourth", "sensitivity")
ROWS, KEYS = 67, 333
SLACK = 2e-5
"""What a backend may be off by beside twice the error of plain PyTorch, as a share of the largest value, or of 1."""


def examine(model: Any = None, *, device: Any = None, dtype: Any = None, repeats: int = 3) -> dict[str, Any]:
    """Examine this machine; everything in the result can be written as JSON, and names no user and no path.

    Args:
        model: as of `entropylab.load`; it is sampled at its own size, for two steps.
        device: the device to examine; the fastest there is if None.
        dtype: dtype of the pipeline; what suits the device if None.
        repeats: how often the pipeline is sampled each way.

    Returns:
        ``versions``, ``devices``, ``backends``, ``accuracy``, ``sampling``, and ``problems``: what is wrong, a sentence
        each; nothing if all is well.

    Raises:
        EntropyLabError: no such model or device.
    """
    check_int("repeats", repeats)
    pipe = load(model, device=device, dtype=dtype)
    place = torch.device(pipe.device)
    found: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            **versions(PACKAGES),
            "CUDA of torch": str(torch.version.cuda),
        },
        "devices": devices(),
        "examined": str(place),
        "backends": backends(place),
    }
    found["accuracy"] = accuracy(place, found["backends"])
    with quiet(pipe):
        found["sampling"] = sampling(pipe, repeats)
    found["problems"] = [*wrong_numbers(found["accuracy"]), *found["sampling"].pop("problems")]
    return anonymous(found)


def devices() -> dict[str, str]:
    """What there is to compute on."""
    instructions = torch.backends.cpu.get_cpu_capability()
    found = {"cpu": f"{os.cpu_count()} processors, {torch.get_num_threads()} threads, {instructions}"}
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{of.name}, {of.major}.{of.minor}, {of.total_memory / 2**30:.0f} GiB"
    return found


def backends(device: torch.device) -> dict[str, str]:
    """Backend -> "usable", or why it is not, for float32 of head dimension 64."""
    q, k = torch.zeros(1, 1, 8, 64, device=device), torch.zeros(1, 1, 8, 64, device=device)
    rows = check_rows(q, k, None, None, False, ("entropy", "variance"))
    return {name: why_not(name, rows, unasked=True) or "usable" for name in BACKENDS[1:]}


def questions(device: torch.device) -> Iterator[tuple[dict[str, Any], Tensor, Tensor, dict[str, Any]]]:
    """What backends are asked: what is special about it, q, k, and further arguments."""
    generator = torch.Generator().manual_seed(0)
    for dtype, width in itertools.product(DTYPES, WIDTHS):
        q, k = (torch.randn(2, 4, n, width, generator=generator).to(device, dtype) for n in (ROWS, KEYS))
        left = (torch.rand(2, 1, ROWS, KEYS, generator=generator) > 0.3).to(device)
        bias = torch.randn(2, 1, ROWS, KEYS, generator=generator).to(device)
        masks: dict[str, dict[str, Any]] = {
            "none": {},
            "boolean": {"mask": left},
            "bias": {"mask": bias},
            "causal": {"is_causal": True},
        }
        for mask, more in masks.items():
            yield {"dtype": str(dtype).removeprefix("torch."), "width": width, "mask": mask}, 2 * q, k, more


def accuracy(device: torch.device, usable: dict[str, str]) -> list[dict[str, Any]]:
    """The largest error of each backend in each statistic against float64, and that of plain PyTorch beside it."""
    found = []
    names = [name for name in BACKENDS[1:] if usable[name] == "usable" or name == "reference"]
    for special, q, k, more in questions(device):
        wide = more | ({"mask": more["mask"].double()} if special["mask"] == "bias" else {})
        exact = row_statistics(q.double(), k.double(), statistics=STATISTICS, backend="reference", **wide)
        plain = row_statistics(q, k, statistics=STATISTICS, backend="reference", **more)
        for backend, statistic in itertools.product(names, STATISTICS):
            if why_not(backend, check_rows(q, k, None, more.get("mask"), "is_causal" in more, (statistic,)), False):
                continue
            entry = special | {"backend": backend, "statistic": statistic}
            try:
                answer = row_statistics(q, k, statistics=(statistic,), backend=backend, **more)[statistic]
            except Exception as problem:  # a kernel that does not compile or launch is a finding
                found.append(entry | {"failed": one_line(problem, 300)})
                continue
            size = max(1.0, float(exact[statistic].abs().nan_to_num(0).max()))
            errors = [float((each.double() - exact[statistic]).abs().max()) for each in (answer, plain[statistic])]
            found.append(entry | {"error": errors[0], "allowed": 2 * errors[1] + SLACK * size})
    return found


def wrong_numbers(found: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the backends' numbers, the first case of each sort."""
    told: dict[tuple[str, str], str] = {}
    for one in found:
        case = (
            f"{one['backend']}: {one['statistic']}, {one['dtype']}, head dimension {one['width']}, mask {one['mask']}"
        )
        if "failed" in one:
            told.setdefault((one["backend"], one["failed"]), f"{case}, fails: {one['failed']}")
        elif not one["error"] <= one["allowed"]:
            told.setdefault((one["backend"], one["statistic"]), f"{case}, is off by {one['error']:.1e}")
    return list(told.values())


def sampling(pipe: Any, repeats: int) -> dict[str, Any]:
    """What recording does to a pipeline: the picture, the time, waits for the GPU, memory; and what it finds."""
    from . import record
    from .pipelines import default_size, train_size

    size = train_size(pipe) or default_size(pipe)
    try:
        prompt = default_prompts(pipe)[0]
    except EntropyLabError:  # a pipeline that is not ours
        prompt = "a red car"
    settings = default_settings(pipe) | {"num_inference_steps": 2, "output_type": "latent"}
    if size is not None:
        settings |= {"height": size[0], "width": size[1]}

    def plain() -> Tensor:
        picture: Tensor = pipe(prompt=prompt, generator=torch.Generator("cpu").manual_seed(0), **settings)[0]
        return picture

    def watched() -> Tensor:
        with record(pipe):
            return plain()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", EntropyLabWarning)
        with record(pipe) as recorder:
            plain()
    first, second = plain(), plain()
    repeatable, ratios, identical = torch.equal(first, second), [], True
    for _ in range(repeats):
        (alone, picture), (seen, other) = timed(plain), timed(watched)
        ratios.append(seen / alone)
        identical &= torch.equal(picture, other)
    ours = [each.message for each in told if issubclass(each.category, EntropyLabWarning)]
    waits_and_memory = of_a_gpu(pipe, plain, record) if pipe.device.type == "cuda" else {}
    problems = {
        "pictures change while they are recorded": repeatable and not identical,
        f"recording waits for the GPU {waits_and_memory.get('waits')} times in a run": waits_and_memory.get("waits"),
        f"{len(recorder.unmeasured)} attention layers ran that were not measured": recorder.unmeasured,
    }
    return {
        "pipeline": type(pipe).__name__,
        "size": "its own" if size is None else size_label(size),
        "layers": len(recorder.dataset.layer),
        "unmeasured": recorder.unmeasured,
        "warnings": [" ".join(str(message).split())[:300] for message in ours],
        "identical": identical,
        "repeatable": repeatable,
        "time": statistics.median(ratios),
        "time least": min(ratios),
        "time most": max(ratios),
        **waits_and_memory,
        "problems": [problem for problem, is_there in problems.items() if is_there],
    }


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds that a run takes, and its picture."""
    start = time.perf_counter()
    picture = run()
    if picture.is_cuda:
        torch.cuda.synchronize(picture.device)
    return time.perf_counter() - start, picture


def of_a_gpu(pipe: Any, plain: Callable[[], Tensor], record: Any) -> dict[str, Any]:
    """Waits of the host that recording adds, and peak memory as a multiple of plain sampling's."""

    def waits_and_peak() -> tuple[int, int]:
        torch.cuda.reset_peak_memory_stats(pipe.device)
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                plain()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = sum("synchronizing CUDA operation" in str(each.message) for each in told)
        return waits, torch.cuda.max_memory_allocated(pipe.device)

    plain_waits, plain_peak = waits_and_peak()
    with record(pipe):
        plain()  # what is found out once about a model is found out here
        waits, peak = waits_and_peak()
    return {"waits": waits - plain_waits, "memory": peak / plain_peak}


def anonymous(found: dict[str, Any]) -> dict[str, Any]:
    """What was found, without names of users, machines and folders."""
    folders = (sys.prefix, sys.base_prefix, str(Path.home()), str(Path.cwd()), str(Path(__file__).parents[1]))
    private = {*folders, socket.gethostname()}
    with suppress(KeyError, OSError):  # a user without a name
        private.add(getpass.getuser())
    text = json.dumps(found)
    for word in sorted(private - {"root", "user"}, key=len, reverse=True):
        text = text.replace(json.dumps(word)[1:-1], "...") if len(word) > 2 else text
    return dict(json.loads(text))


def described(found: dict[str, Any]) -> str:
    """What ``examine`` found, as text for a terminal: tables, and what is wrong."""
    blocks = [f"{title}\n{pd.Series(found[title]).to_string()}" for title in ("versions", "devices", "backends")]
    right = [one for one in found["accuracy"] if "error" in one]
    if right:
        frame = pd.DataFrame(right)
        frame["entropy [nats]"] = frame["error"].where(frame["statistic"] == "entropy")
        frame["share of what is allowed"] = frame["error"] / frame["allowed"]
        columns = ["entropy [nats]", "share of what is allowed"]
        worst = frame.groupby(["backend", "dtype"], sort=False)[columns].max()
        table = worst.to_string(float_format="{:.1e}".format)
        blocks.append(
            f"largest error against float64 of entropy, and of any statistic, on {found['examined']}\n{table}"
        )
    shown = {name: "none" if value in ({}, []) else value for name, value in found["sampling"].items()}
    told = pd.Series({name: f"{value:.2f}" if isinstance(value, float) else value for name, value in shown.items()})
    blocks.append(f"two steps, recorded; time and memory as multiples of plain sampling\n{told.to_string()}")
    problems = [f"- {problem}" for problem in found["problems"]]
    blocks.append("\n".join(["wrong:", *problems]) if problems else "all is well")
    return "\n\n".join(blocks)
