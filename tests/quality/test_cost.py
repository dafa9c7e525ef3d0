"""Memory of the process, also where there is no /proc, and no module ``resource``."""

import sys
from pathlib import Path

import pytest

from entropylab.quality import cost


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_memory_of_the_process_on_other_systems(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: cost.resident(name) for name in ("VmRSS", "VmHWM")}
    import resource

    import psutil

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def no_proc(self: Path, *arguments: object, **options: object) -> str:
        raise FileNotFoundError(str(self))

    class Usage:
        ru_maxrss = peak if system == "darwin" else peak // 1024

    process = psutil.Process
    monkeypatch.setattr(psutil, "Process", lambda: process())
    monkeypatch.setattr(Path, "read_text", no_proc)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    if system == "win32":
        monkeypatch.setitem(sys.modules, "resource", None)
    assert cost.resident("VmRSS") == pytest.approx(known["VmRSS"], rel=0.2)
    assert known["VmRSS"] / 2 < cost.resident("VmHWM") < 4 * max(known["VmHWM"], peak)


def test_the_room_is_entered_without_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delitem(sys.modules, "entropylab.quality.cost")
    importlib.import_module("entropylab.quality.cost")
