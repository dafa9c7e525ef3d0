"""The command line as a whole: its help, and its errors and warnings as one line each."""

import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import EntropyLabError, EntropyLabWarning, one_line
from .words import repeat_sizes, say

STOPPED = 130
"""Exit status of what Ctrl-C ended, as of any program."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the first Ctrl-C end a command, and the next one the process at once, without a traceback.

    Nothing is lost by that: what a long run has finished is whole on the disk, and what is half written has no name.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(STOPPED))
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not one that somebody else has set, nor ignored, as by nohup
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, before)


class Commands(TyperGroup):
    """Shows what a caller did wrong as one line, ``error: ...``, with exit status 2 and no traceback."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line, from its words to the end of the process."""
        with stoppable():
            return super().main(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with warnings.catch_warnings():
            warnings.simplefilter("default", EntropyLabWarning)
            warnings.showwarning = partial(show_warning, warnings.showwarning)
            try:
                return super().invoke(ctx)
            except EntropyLabError as error:
                said = one_line(error).replace("overwrite=True (--overwrite)", "--overwrite")
                command = self.get_command(ctx, ctx.invoked_subcommand or "")
                names = {each.name for each in command.params} if command is not None else set()
                say(f"error: {with_options(said, names)}", err=True)
                tell_what_is_left(error)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as error:
                say("stopped", err=True)
                tell_what_is_left(error)
                raise typer.Exit(STOPPED) from error


def with_options(said: str, names: set[str]) -> str:
    """What is said to be passed, "pass out=" or "pass engine='ray'", as the option of that name, if there is one."""

    def option(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')} {found[2] or ''}".strip() if found[1] in names else found[0]

    return re.sub(r"(?<=pass )(\w+)=(?:'(\w+)')?", option, said)


def show_warning(others: Any, message: Any, category: type[Warning], *arguments: Any, **options: Any) -> None:
    """Show a warning of ours as one line, and others as they are shown elsewhere."""
    if issubclass(category, EntropyLabWarning):
        say(f"warning: {' '.join(str(message).split())}", err=True)
    else:
        others(message, category, *arguments, **options)


def tell_what_is_left(error: BaseException) -> None:
    """Say what a long run keeps that was ended by ``error``."""
    if hasattr(error, "run"):
        say(f"what was finished is kept: entropylab status {error.run}; the same command goes on", err=True)


class TakesSizes(TyperCommand):
    """A command whose ``--sizes`` takes several values, as in ``--sizes 32 64 96x128``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line, after ``repeat_sizes``."""
        return super().parse_args(ctx, repeat_sizes(args))


app = typer.Typer(
    cls=Commands,
    help="Measure how the entropy of attention grows with image size, fit the law, and hold the entropy steady. "
    "Entropy is in nats, sizes are in pixels (height before width). Without a model, every command uses the small "
    "text-to-image pipeline that is shipped inside the package: no GPU and no download needed. "
    "`entropylab COMMAND --help` explains a command.",
    epilog="\b\nStart with:\n"
    "  entropylab measure --sizes 32 64 96x128 --out entropy.nc\n"
    "  entropylab fit entropy.nc\n"
    "  entropylab report entropy.nc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        say(f"entropylab {metadata.version('entropylab')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that belong to no command; the help text is the app's."""
