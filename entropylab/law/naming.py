"""Short names of layers, for figures and tables."""

import xarray as xr


def short(block: str) -> str:
    """A block's name for a tick: "down 0" of "down_blocks.0", "mid" of "mid_block"."""
    name, _, number = block.rpartition(".") if "." in block else (block, "", "")
    return f"{name.removesuffix('_blocks').removesuffix('_block').replace('_', ' ')} {number}".strip()


def layer_names(ds: xr.Dataset) -> list[str]:
    """Short names of layers: of their blocks, numbered in a block that has several ("up 1, 0"); with their parts,
    if these differ.
    """
    blocks = [short(str(block)) for block in ds["block" if "block" in ds.coords else "layer"].values]
    if "part" in ds.coords:
        parts = [str(part) for part in ds["part"].values]
        parts = parts if len(set(parts)) > 1 else ["all"] * len(parts)
        blocks = [block if part == "all" else f"{block} {part}" for block, part in zip(blocks, parts, strict=True)]
    again = {block for block in blocks if blocks.count(block) > 1}
    return [f"{name}, {blocks[:i].count(name)}" if name in again else name for i, name in enumerate(blocks)]
