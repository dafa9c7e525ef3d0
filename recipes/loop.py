"""The loop of all stages: AdamW, averaged weights, checkpoints from which a killed run goes on as if it never ended."""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

Rate = Callable[[int, int, float], float]
"""The learning rate from a step (the first is 1), the number of steps, and the highest rate."""


def new_parser(about: str | None, out: str, steps: int, batch: int) -> argparse.ArgumentParser:
    """What every stage can be told; the number of steps may change when a run goes on."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out), help="run folder (%(default)s)")
    parser.add_argument("--steps", type=int, default=steps, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=batch, help="(%(default)s)")
    return parser


def cosine(step: int, steps: int, peak: float, warmup: int = 150) -> float:
    """Linear warm-up, then half a cosine down to zero at ``steps``."""
    return peak * min(step / warmup, 1.0) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


def trapezoid(step: int, steps: int, peak: float, warmup: int = 50, decay_share: float = 0.6) -> float:
    """Linear warm-up, constant, then linear decay over the last ``decay_share`` of the steps."""
    left = (steps - step + 1) / max(1, decay_share * steps)
    return peak * min(1.0, step / warmup, max(left, 0.0))


def moved(decay: float, average: torch.Tensor, value: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    """An exponential moving average one step on; its horizon grows at the start."""
    return average.lerp(value, 1 - min(decay, float((1 + updates) / (10 + updates))))


class Loop:
    """Trains a module, and takes up the last checkpoint in FOLDER/STAGE, random numbers included.

    ``average`` has averaged weights (``average.module`` the module), ``done`` counts steps; ``options`` are AdamW's.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        model: nn.Module,
        peak: float,
        decay: float = 0.999,
        rate: Rate = cosine,
        **options: Any,
    ) -> None:
        self.folder, self.model, self.peak, self.rate = folder / stage, model, peak, rate
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {"betas": (0.9, 0.99), "weight_decay": 1e-3, "fused": True} | options
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=peak, **settings)
        self.average = AveragedModel(model, avg_fn=partial(moved, decay))
        self.parts = {"model": model, "optimizer": self.optimizer, "average": self.average}
        self.started = time.monotonic()
        self.done = self.restore()

    def train(
        self,
        steps: int,
        loss_of_batch: Callable[[], tuple[torch.Tensor, dict[str, float]]],
        every: int = 100,
    ) -> None:
        """Train until ``steps``, which the learning rate is fitted to, and which may be others when a run goes on.

        ``loss_of_batch`` gives the loss of a new batch, and what to log of it.
        """
        sums: dict[str, float] = {}
        since = self.done
        for step in range(self.done + 1, steps + 1):
            self.optimizer.param_groups[0]["lr"] = self.rate(step, steps, self.peak)
            loss, seen = loss_of_batch()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.average.update_parameters(self.model)
            self.done = step
            for name, value in {"loss": loss.item(), **seen}.items():
                sums[name] = sums.get(name, 0.0) + value
            if step % every == 0 or step == steps:
                self.save()
                self.log(step=step, **{name: value / (step - since) for name, value in sums.items()})
                sums, since = {}, step

    def restore(self) -> int:
        """Load every part's state from the last checkpoint; return the steps taken until then (0 if there is none)."""
        checkpoint = self.folder / "checkpoint.pt"
        if not checkpoint.exists():
            return 0
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        return state["step"]

    def save(self) -> None:
        """Write a checkpoint whole: a run that is killed while it writes keeps the one before."""
        partial = self.folder / "checkpoint.partial"
        states = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({"step": self.done, "random": torch.get_rng_state(), **states}, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def log(self, **values: float) -> None:
        """Append one line to the log and print it."""
        line = json.dumps({"seconds": round(time.monotonic() - self.started, 1), **values})
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
