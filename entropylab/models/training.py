"""What both training stages share: a run folder with checkpoints and a log, an average of weights, a schedule."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Run:
    """A folder that one stage of training writes to: ``checkpoint.pt``, ``log.jsonl``, pictures.

    A stage that is started again in the same folder continues from its last checkpoint.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder = folder / stage
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "checkpoint.pt"
        self.started = time.monotonic()

    def restore(self, **parts: Any) -> int:
        """Load every part's state from the last checkpoint; return the step to continue from (0 if none)."""
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["step"]

    def save(self, step: int, **parts: Any) -> None:
        """Write a checkpoint whole: a run that is killed while it writes keeps the one before."""
        partial = self.checkpoint.with_suffix(".partial")
        torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, partial)
        partial.replace(self.checkpoint)

    def log(self, **values: float) -> None:
        """Append one line to the log and print it."""
        line = {"seconds": round(time.monotonic() - self.started, 1), **values}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(" ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), flush=True)


class Average:
    """Exponential moving average of a module's parameters, with a horizon that grows at the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards ``module``."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)

    def state_dict(self) -> dict:
        """What a checkpoint keeps."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """Take up what a checkpoint kept."""
        self.updates = state["updates"]
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)


class Descent:
    """The loop that both denoisers are trained by: AdamW, clipped gradients, a log, checkpoints, pictures now and then.

    Attributes:
        average: of the weights, over the last thousand steps or so.
    """

    def __init__(self, run: Run, model: nn.Module, peak: float) -> None:
        self.run, self.model, self.peak = run, model, peak
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
        )
        self.average = Average(model, 0.999)

    def train(self, steps: int, loss_of_batch: Callable[[], torch.Tensor], draw: Callable[[Path], None]) -> None:
        """Train until ``steps``, from the last checkpoint on; ``draw`` is told where to put its pictures."""
        parts = {"model": self.model, "optimizer": self.optimizer, "average": self.average}
        start = self.run.restore(**parts)
        torch.manual_seed(start)
        total = 0.0
        for step in range(start + 1, steps + 1):
            set_learning_rate(self.optimizer, learning_rate(step - 1, steps, self.peak))
            total += self.step(loss_of_batch())
            if step % 100 == 0:
                self.run.log(step=step, loss=total / 100, rate=self.optimizer.param_groups[0]["lr"])
                total = 0.0
            if step % 500 == 0 or step == steps:
                self.run.save(step, **parts)
            if step % 1000 == 0 or step == steps:
                draw(self.run.folder / f"grid-{step}.png")

    def step(self, loss: torch.Tensor) -> float:
        """Take one step down; return the loss."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.model)
        return loss.item()


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200, decay_share: float = 0.3) -> float:
    """Linear warm-up, constant, then linear decay to zero over the last ``decay_share`` of the steps."""
    left = (steps - step) / max(1, decay_share * steps)
    return peak * min(1.0, (step + 1) / warmup, max(left, 0.0))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors."""
    save_file({name: value.contiguous() for name, value in weights.items()}, path)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors from safetensors."""
    return load_file(path)
