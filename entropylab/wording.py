"""Words that messages, tables and reports share."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count of things: "1 layer", "3 layers"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
