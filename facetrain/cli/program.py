"""The command line as a whole: options before the command, exit codes, quiet start of TensorFlow."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Optional

import typer

from facetrain import __version__
from facetrain.cli import (
    align,
    compare,
    convert,
    data,
    data_check,
    data_overlap,
    data_write,
    doctor,
    embed,
    evaluate,
    export,
    launch,
    plan,
    profile,
    report,
    show,
    surgery,
    train,
    tune,
)
from facetrain.cli.failures import EXIT_FAILURE, TRACEBACK_VARIABLE, report_failure

app = typer.Typer(
    name="facetrain",
    help="Trains, judges and ships face-recognition models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: the coloured one imports a Markdown parser, for twice the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train.train)
app.command()(launch.launch)
app.command()(tune.tune)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(embed.embed)
app.command()(align.align)
data.app.command()(data_check.check)
data.app.command()(data_overlap.overlap)
data.app.command()(data_write.pack)
data.app.command()(data_write.unpack)
data.app.command()(data_write.merge)
data.app.command("filter")(data_write.filter_set)
app.add_typer(data.app, name="data")
app.command()(export.export)
app.add_typer(convert.app, name="convert")
app.command()(surgery.surgery)
app.command()(profile.profile)
app.command()(plan.plan)
app.command()(report.report)
app.add_typer(show.app, name="show")
app.command()(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"facetrain {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    traceback: bool = typer.Option(
        False, "--traceback", envvar=TRACEBACK_VARIABLE, help="Show where in the code a failure happened."
    ),
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version and stop."
    ),
) -> None:
    context.obj.traceback = traceback


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one command.

    Args:
        argv: words after the program's name; None takes those of the process.
    Returns:
        Exit code: 0 done, 1 failure, 2 wrong use or bad input, 130 interrupted.
    """
    # Read by TensorFlow when a command first imports it; whoever wants its messages sets the variable.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    settings = SimpleNamespace(traceback=None)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        typer.main.get_command(app).main(arguments, prog_name="facetrain", obj=settings)
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else EXIT_FAILURE if finished.code else 0
    # Whatever a command raises ends here, as one sentence and an exit code.
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        return report_failure(error, settings.traceback)
    return 0


def run(argv: Optional[Sequence[str]] = None) -> None:
    """Runs one command, as ``main`` does, and ends the process with its exit code."""
    code = main(argv)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, say 'head', had enough; without this Python complains once more while shutting down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "tensorflow" in sys.modules:
        # All is written and closed. Threads of TensorFlow may still be at work for an iterator that an error left
        # behind; taking the interpreter down around them can wait for ever, ending the process cannot.
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
