"""The bytes of an HDF5 file of ours: sealed when they are written, and looked at before anything reads them.

HDF5 itself trusts what it reads: zeros in a heap keep it busy for ever, and a file can make it read others.
"""

import hashlib
import io
import re
import struct
from typing import Any

import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SEAL = b"\x89entropylab seal\n"
"""After the end of the HDF5 file, with the SHA-256 of everything before it; other programs don't look there."""

PACKED = 1100
"""Bytes that a compressed one can stand for; deflate reaches 1032."""

SLACK = 2**26
"""Bytes that a variable may claim without having them in the file: dimensions without labels are such variables."""


def sealed(content: bytes) -> bytes:
    """An HDF5 file with its seal."""
    return content + SEAL + hashlib.sha256(content).digest()


def check(content: bytes) -> None:
    """Raise a ValueError if an HDF5 file is damaged, or takes its numbers from elsewhere; no numbers are read here.

    A file without a seal is from an older version, or was changed by another program since.
    """
    end = stated_end(content)
    rest = content[end:]
    if rest and rest != sealed(content[:end])[end:]:
        raise ValueError("its checksum is not that of its content")
    check_heaps(content)
    with h5py.File(io.BytesIO(content), "r") as file:
        wrong = file.visititems_links(wrong_link) or wrong_object("/", file) or file.visititems(wrong_object)
    if wrong:
        raise ValueError(wrong)


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


def check_heaps(content: bytes) -> None:
    """Raise a ValueError if free space in a heap of texts has no size, which HDF5 steps over without end.

    Of thousands of files that were damaged at random, these were the only ones that raised no exception.

    Source: HDF5 File Format Specification, III.E, "Disk Format: Level 1E - Global Heap".
    """
    for heap in re.finditer(rb"GCOL\x01\0\0\0", content):
        place, length = heap.start() + 16, int.from_bytes(content[heap.start() + 8 : heap.start() + 16], "little")
        while place + 16 <= min(heap.start() + length, len(content)):
            index, size = struct.unpack_from("<H6xQ", content, place)
            if index == size == 0:
                raise ValueError("a heap of its texts is damaged")
            place += size if index == 0 else 16 + size + -size % 8


def wrong_link(name: str, link: Any) -> str | None:
    """What is wrong with a name that leads elsewhere."""
    return None if isinstance(link, h5py.HardLink) else f"{name!r} is a link, perhaps to another file: not followed"


def wrong_object(name: str, found: h5py.Group | h5py.Dataset) -> str | None:
    """What is wrong with a group that is in itself, or a variable whose numbers are elsewhere, or not all there."""
    if h5py.h5o.get_info(found.id).rc > 1:
        return f"{name!r} is there under several names"
    if not isinstance(found, h5py.Dataset):
        return None
    if found.external or found.is_virtual:
        return f"the numbers of {name!r} are kept in other files, which are not read"
    claimed, stored = (found.size or 0) * found.dtype.itemsize, found.id.get_storage_size()
    if claimed > PACKED * stored + SLACK:
        return f"{name!r} claims {claimed / 1e9:.3g} GB, of which {stored} bytes are stored"
    return None
