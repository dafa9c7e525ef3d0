"""Sentences from numbers; tests give each one numbers of which it says something else."""

NAN = float("nan")


def said(sentences: list[str]) -> str:
    assert all(sentence.endswith(".") and "nan" not in sentence.lower() for sentence in sentences), sentences
    return " ".join(sentences)
