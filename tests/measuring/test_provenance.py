"""What a Dataset tells of where it comes from, and what it keeps to itself."""

import sys

import pytest

from entropylab.measuring.provenance import command

SECRET = "hUsh4711"


@pytest.mark.parametrize(
    "words",
    [
        ["--token", SECRET],
        ["--api_key", SECRET],
        [f"--token={SECRET}"],
        [f"HF_TOKEN={SECRET}"],
        ["--header", f"Authorization: Bearer {SECRET}"],
        [f"https://me:{SECRET}@example.org/model"],
        [f"https://example.org/model?size=3&access_token={SECRET}&x=1"],
        ["-c", f"login(token='{SECRET}'); measure(pipe, 64)"],
        ["-c", f'{{"secret": "{SECRET} and more"}}'],
        ["--use", f"hf_{SECRET * 4}"],
    ],
)
def test_secrets_of_the_command_line_are_left_out(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "entropylab", "measure", *words, "--sizes", "32"])
    said = command()
    assert SECRET not in said
    assert said.startswith("python -m entropylab measure ") and said.endswith(" --sizes 32")
    assert "***" in said


@pytest.mark.parametrize(
    "words",
    [
        ["--sizes", "32", "64", "--samples=4", "--out", "RUN/"],
        ["--train-tokens", "64", "--tokens=16", "--author", "me", "--keyword", "x", "--passes", "3"],
        ["https://example.org/model?size=3"],
        ["a" * 20_000, "-" * 20_000],
    ],
)
def test_everything_else_is_kept(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])
    import shlex

    assert command() == shlex.join(["python", *words])
