"""The bytes of an HDF5 file of ours: sealed when they are written, and looked at before anything reads them.

HDF5 itself trusts what it reads: a block of zeros can keep it busy for ever, and a file can make it read others.
This file imports nothing of the package, because it is also run as a program of its own, by ``look_apart``.
"""

import hashlib
import io
import os
import subprocess
import sys

import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SEAL = b"\x89entropylab seal\n"
"""After the end of the HDF5 file, with the SHA-256 of everything before it; other programs don't look there."""

SECONDS = 30.0
"""How long a file without a seal may take to be read [s], and a second more for each ``RATE`` bytes."""

RATE = 2**20

PACKED = 1100
"""Bytes that a compressed one can stand for; deflate reaches 1032."""

DEEPEST = 4
"""So many groups may be in each other; maps have two."""

SLACK = 2**26
"""Bytes that a variable may claim without having them in the file: dimensions without labels are such variables."""


def sealed(content: bytes) -> bytes:
    """An HDF5 file with its seal."""
    return content + SEAL + hashlib.sha256(content).digest()


def check(content: bytes) -> None:
    """Raise a ValueError if an HDF5 file is damaged, or takes its numbers from elsewhere; no numbers are read here.

    A file without a seal is from an older version, or was changed by another program since. Another process reads it
    first, because HDF5 may never return from a damaged file.
    """
    end = stated_end(content)
    rest = content[end:]
    if rest and rest != sealed(content[:end])[end:]:
        raise ValueError("its checksum is not that of its content")
    if not rest:
        look_apart(content)
    look(content)


def stated_end(content: bytes) -> int:
    """Where an HDF5 file ends, as it says itself; ValueError if it is shorter than that, or says nothing of the kind.

    Source: HDF5 File Format Specification, II.A, "Disk Format: Level 0A - Format Signature and Superblock".
    """
    version = content[8] if len(content) > 48 else None
    place = {0: (13, 40), 1: (13, 44), 2: (9, 28), 3: (9, 28)}.get(version)  # type: ignore[arg-type]
    if place is None or content[place[0]] != 8:
        raise ValueError("its first bytes are not those of an HDF5 file")
    end = int.from_bytes(content[place[1] : place[1] + 8], "little")
    if not 48 < end <= len(content):
        raise ValueError(f"it has {len(content)} bytes, and should have {end}")
    return end


def look(content: bytes, read: bool = False) -> None:
    """Raise a ValueError if variables are kept outside the file or claim far more than it holds; or read them all."""
    with h5py.File(io.BytesIO(content), "r") as file:
        look_into(file, read)


def look_into(group: h5py.Group, read: bool, depth: int = 0) -> None:
    """`look` at a group, and at those in it; groups may hold each other, so there is an end to that."""
    if depth > DEEPEST:
        raise ValueError(f"its groups are in each other more than {DEEPEST} deep")
    if read:
        list(group.attrs.items())
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r} is a link, perhaps to another file, and is not followed")
    for name in group:
        inner = group[name]
        if isinstance(inner, h5py.Group):
            look_into(inner, read, depth + 1)
        elif isinstance(inner, h5py.Dataset):
            check_variable(name, inner)
            if read:
                list(inner.attrs.items())
                inner[()]


def check_variable(name: str, variable: h5py.Dataset) -> None:
    """Raise a ValueError if a variable's numbers are in other files, or are many more than are stored."""
    if variable.external or variable.is_virtual:
        raise ValueError(f"the numbers of {name!r} are kept in other files, which are not read")
    claimed, stored = (variable.size or 0) * variable.dtype.itemsize, variable.id.get_storage_size()
    if claimed > PACKED * stored + SLACK:
        raise ValueError(f"{name!r} claims {claimed / 1e9:.3g} GB, of which {stored} bytes are stored")


def look_apart(content: bytes) -> None:
    """``look`` and read everything in another process, which may hang or crash.

    Raises:
        ValueError: what is wrong, or that the process did not end in time.
    """
    seconds = SECONDS + len(content) / RATE
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__],
            input=content,
            capture_output=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it can't be read within {seconds:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(said[-1] if said else f"HDF5 crashes over it ({done.returncode})")


if __name__ == "__main__":
    look(sys.stdin.buffer.read(), read=True)
