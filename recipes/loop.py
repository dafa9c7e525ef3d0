"""The loop of all stages: AdamW, an average of the weights, checkpoints from which a killed run goes on as if nothing
had happened.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from entropylab.models.training import Average, Run


class Loop:
    """Trains a module in a run folder, and takes up the last checkpoint there, random numbers included.

    Attributes:
        average: of the weights, over about the last thousand steps.
        done: steps taken so far.
    """

    def __init__(self, folder: Path, stage: str, model: nn.Module, peak: float, decay: float = 0.999) -> None:
        self.run, self.model, self.peak = Run(folder, stage), model, peak
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
        )
        self.average = Average(model, decay)
        self.parts = {"model": model, "optimizer": self.optimizer, "average": self.average, "random": Random()}
        self.done = self.run.restore(**self.parts)

    def train(
        self,
        steps: int,
        loss_of_batch: Callable[[], tuple[torch.Tensor, dict[str, float]]],
        every: int = 100,
        show: Callable[[Path], None] | None = None,
        show_every: int = 1000,
    ) -> None:
        """Train until ``steps``.

        Args:
            steps: of the whole run, which the learning rate is fitted to; it may be another when a run goes on.
            loss_of_batch: gives the loss of a new batch, and what to log of it.
            every: steps between checkpoints and lines of the log.
            show: draws the model's pictures to a path.
            show_every: steps between two such pictures.
        """
        sums: dict[str, float] = {}
        since, began = self.done, time.monotonic()
        for step in range(self.done + 1, steps + 1):
            self.optimizer.param_groups[0]["lr"] = learning_rate(step, steps, self.peak)
            loss, seen = loss_of_batch()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.average.update(self.model)
            self.done = step
            for name, value in {"loss": loss.item(), **seen}.items():
                sums[name] = sums.get(name, 0.0) + value
            if step % every == 0 or step == steps:
                self.run.save(step, **self.parts)
                count = step - since
                means = {name: value / count for name, value in sums.items()}
                self.run.log(step=step, **means, seconds_a_step=(time.monotonic() - began) / count)
                sums, since, began = {}, step, time.monotonic()
            if show is not None and (step % show_every == 0 or step == steps):
                draws = torch.get_rng_state()
                show(self.run.folder / f"grid-{step}.png")
                torch.set_rng_state(draws)
                began = time.monotonic()


class Random:
    """The state of torch's random numbers, as a part of a checkpoint."""

    def state_dict(self) -> dict:
        """What a checkpoint keeps."""
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state: dict) -> None:
        """Draw on from where the checkpoint was written."""
        torch.set_rng_state(state["torch"])


def learning_rate(step: int, steps: int, peak: float, warmup: int = 150) -> float:
    """Linear warm-up, then half a cosine down to zero at ``steps``."""
    return peak * min(step / warmup, 1.0) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2
