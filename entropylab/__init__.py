"""entropylab: how widely does the attention of a diffusion model look, and what happens to that at other image sizes?

Examples:
    >>> import entropylab
    >>> pipe = entropylab.load()
    >>> ds = entropylab.measure(pipe, sizes=[32, 64, 96], samples=2, steps=2, progress=False)
    >>> print(entropylab.fit(ds).summary())
    H = slope * log N + intercept; the law: slope 1, intercept -sigma^2/2
    ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import EntropyLabError, EntropyLabWarning

if TYPE_CHECKING:
    from . import plot
    from .calibration import Calibration, calibrate
    from .entropy import row_statistics
    from .law.check import check
    from .law.compare import compare
    from .law.fit import fit
    from .measurement import measure
    from .measuring.logits import logit_sample
    from .measuring.recording import record
    from .models import load
    from .netcdf import open_dataset as open
    from .netcdf import save
    from .pipelines import layers
    from .plot.explorer import explore
    from .quality.evaluation import evaluate
    from .reporting import report
    from .scaling import rescale
    from .simulation import simulate, simulate_dataset

_HOMES = {
    "Calibration": "calibration",
    "calibrate": "calibration",
    "check": "law.check",
    "compare": "law.compare",
    "evaluate": "quality.evaluation",
    "explore": "plot.explorer",
    "fit": "law.fit",
    "layers": "pipelines",
    "load": "models",
    "logit_sample": "measuring.logits",
    "measure": "measurement",
    "open": "netcdf",
    "plot": "plot",
    "record": "measuring.recording",
    "report": "reporting",
    "rescale": "scaling",
    "row_statistics": "entropy",
    "save": "netcdf",
    "simulate": "simulation",
    "simulate_dataset": "simulation",
}

__all__ = [
    "Calibration",
    "EntropyLabError",
    "EntropyLabWarning",
    "calibrate",
    "check",
    "compare",
    "evaluate",
    "explore",
    "fit",
    "layers",
    "load",
    "logit_sample",
    "measure",
    "open",
    "plot",
    "record",
    "report",
    "rescale",
    "row_statistics",
    "save",
    "simulate",
    "simulate_dataset",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import entropylab`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_HOMES[name]}", __name__)
    public = {"open": "open_dataset"}.get(name, name)
    value = module if name == "plot" else getattr(module, public)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
