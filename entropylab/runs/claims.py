"""Who is at work on what, without a server: one small file for each unit in hand, in a folder that all can see.

A claim is a hint, not a lock: units are the same whoever measures them, and appear whole, so that two processes at work
on the same one waste time and harm nothing. That is why a claim may be taken over as soon as its holder seems dead
(its process is gone, or its heartbeat has stopped) or slow. Clocks of other machines are never read: a heartbeat has
stopped when its file has not changed for so long by one's own clock.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..files import create_whole
from .listing import ASIDE, files, is_there, read_file, told

BEAT = 10.0
"""How often a claim says that its holder lives [s]."""

EXPIRES = 120.0
"""For how long a claim that does not change is believed [s]; network file systems may show a change a minute late."""

WIDTH = 512
"""Length of a claim's file [bytes], so that it can be rewritten in place."""


def machine() -> dict[str, str]:
    """What tells this machine, since it was started, from others; and this container's processes from others'."""
    found = {"host": platform.node()}
    with suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found["processes"] = os.readlink("/proc/self/ns/pid")
    return found


def started(pid: int) -> str:
    """When a process of this machine was started; "" if there is none of this number, or it is dead.

    Where there is no /proc, "unknown" for every process that lives.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass
        return "unknown"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@dataclass
class Claim:
    """A unit in hand; a context, which shows that its process lives and gives the unit back at the end."""

    path: Path
    holder: dict[str, Any]
    beat: float = BEAT
    ended: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def __enter__(self) -> "Claim":
        self.thread = threading.Thread(target=self.keep_beating, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        if self.thread is not None:
            self.thread.join()
        self.release()

    def keep_beating(self) -> None:
        """Change the claim's file from time to time; one that was taken over has another file by then."""
        with suppress(OSError), open(self.path, "r+b", buffering=0) as file:
            if not is_of(file.read(WIDTH), self.holder):
                return
            beats = 0
            while not self.ended.wait(self.beat):
                beats += 1
                file.seek(0)
                file.write(content(self.holder, beats))
                os.fsync(file.fileno())

    def release(self) -> None:
        """Give the unit back, unless somebody has taken it over."""
        with suppress(OSError):
            if is_of(self.path.read_bytes(), self.holder):
                self.path.unlink()


def content(holder: dict[str, Any], beats: int) -> bytes:
    """What stands in a claim's file."""
    return (json.dumps({**holder, "beats": beats}).encode().ljust(WIDTH - 1) + b"\n")[:WIDTH]


def holder_of(raw: bytes) -> dict[str, Any]:
    """Who a claim's file says holds it; nothing if it can't be read."""
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_of(raw: bytes, holder: dict[str, Any]) -> bool:
    """Whether a claim's file is of this holder."""
    return holder_of(raw).get("id") == holder["id"]


@dataclass
class Claims:
    """The claims on a run's units, as one process sees them.

    Attributes:
        folder: where the files are.
        expires: for how long a claim that does not change is believed [s].
        clock: seconds that only go forward.
        seen: claim -> what stood in it, and since when.
        held: claim -> who holds it, and since when.
    """

    folder: Path
    expires: float = EXPIRES
    beat: float = BEAT
    clock: Callable[[], float] = time.monotonic
    seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    held: dict[str, tuple[Any, float]] = field(default_factory=dict)
    me: dict[str, Any] = field(
        default_factory=lambda: {**machine(), "pid": os.getpid(), "started": started(os.getpid())}
    )

    def take(self, name: str, patience: float | None = None) -> Claim | None:
        """Claim a unit, or None if somebody has it.

        Args:
            name: the unit.
            patience: for how long one holder may have it [s], whether alive or not; None for as long as it likes.
        """
        path = self.folder / f"{name}.json"
        if is_there(path) and (not self.may_take_over(name, path, patience) or not self.put_aside(path)):
            return None
        holder = {"id": uuid4().hex, **self.me}
        return Claim(path, holder, self.beat) if create_whole(path, content(holder, 0)) else None

    def may_take_over(self, name: str, path: Path, patience: float | None) -> bool:
        """Whether the holder of a claim seems dead, or slower than ``patience``."""
        with told(path):
            try:
                raw = read_file(path)
            except FileNotFoundError:
                return True
        holder, now = holder_of(raw), self.clock()
        if name not in self.seen or self.seen[name][0] != raw:
            self.seen[name] = (raw, now)
        if name not in self.held or self.held[name][0] != holder.get("id"):
            self.held[name] = (holder.get("id"), now)
        if is_dead(holder) or now - self.seen[name][1] > self.expires:
            return True
        return patience is not None and now - self.held[name][1] > patience

    def put_aside(self, path: Path) -> bool:
        """Remove a claim that has been given up; of several that try at once, one succeeds."""
        aside = path.with_name(f".{uuid4().hex}{ASIDE}")
        with told(path):
            try:
                path.rename(aside)
            except FileNotFoundError:
                return not is_there(path)
        with suppress(OSError):
            aside.unlink()
        return True

    def holders(self) -> dict[str, dict[str, Any]]:
        """Unit -> who has it in hand."""
        found = {}
        for name in sorted(files(self.folder, ".json")):
            with suppress(OSError):
                found[name] = holder_of((self.folder / f"{name}.json").read_bytes())
        return found


def is_dead(holder: dict[str, Any]) -> bool:
    """Whether a holder was a process of this machine that is no more."""
    here = machine()
    if "pid" not in holder or any(holder.get(name) != value for name, value in here.items()):
        return False
    return started(holder["pid"]) != holder.get("started")


def who(holder: dict[str, Any]) -> str:
    """The holder of a claim, in words."""
    name = f"{holder.get('host', 'unknown')} process {holder.get('pid', 'unknown')}"
    return f"{name} (dead)" if is_dead(holder) else name
