"""``facetrain tune``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_table, print_text
from facetrain.errors import InputError, did_you_mean

_TUNERS = ("random", "bayesian", "hyperband")


def tune(
    config: Optional[Path] = typer.Argument(None, help="Config file (YAML) of the training that is searched for."),
    space: Optional[Path] = typer.Argument(
        None, help="Space file (YAML): the keys to vary, e.g. configs/tuning/x.yaml."
    ),
    folder: Path = typer.Option(Path("tuning"), "--dir", help="Folder of the search."),
    tuner: str = typer.Option("random", "--tuner", help="Who proposes settings: random, bayesian or hyperband."),
    trials: Optional[int] = typer.Option(
        None, "--trials", min=1, help="Most trials; by default 20, or one round of Hyperband."
    ),
    workers: Optional[int] = typer.Option(
        None,
        "--workers",
        min=1,
        help="Trials at the same time, each in its own process; by default 1, or as before.",
    ),
    assignments: Optional[list[str]] = typer.Option(
        None, "--set", metavar="KEY=VALUE", help="Set one value of the config, e.g. train.epochs=3."
    ),
    resume: Optional[Path] = typer.Option(None, "--resume", metavar="DIR", help="Go on with an interrupted search."),
    report: Optional[Path] = typer.Option(None, "--report", metavar="DIR", help="Write the report of a search anew."),
    listen: Optional[str] = typer.Option(
        None, "--listen", metavar="HOST:PORT", help="Let workers of other hosts join; the network must be trusted."
    ),
    join: Optional[str] = typer.Option(
        None, "--join", metavar="HOST:PORT", help="Be a worker of the search that listens there; with --dir."
    ),
    worker_id: str = typer.Option("", "--worker-id", help="Name of that worker, which no other has."),
    ends_with_parent: bool = typer.Option(False, "--ends-with-parent", hidden=True),
    as_json: bool = typer.Option(False, "--json", help="Print the summary as one JSON object."),
) -> None:
    """Search for hyperparameters, go on searching, or report."""
    from facetrain import tuning

    given = {"--resume": resume, "--report": report, "--join": join}
    modes = [name for name, value in given.items() if value is not None]
    if len(modes) > 1 or (modes and (config is not None or assignments)):
        received = " and ".join([*modes, *(["a config file"] if config else []), *(["--set"] if assignments else [])])
        raise InputError(f"--resume, --report and --join each stand alone, received {received}")
    if join is not None:
        _join(join, folder, worker_id, ends_with_parent)
        return
    if report is not None:
        summary = tuning.write_search_report(tuning.Search.open(report))
    elif resume is not None:
        with _hint_at_resuming(resume):
            summary = tuning.resume(resume, workers, trials, listen, show_progress=True)
    else:
        summary = _begin(config, space, assignments or [], folder, tuner, trials, workers or 1, listen)
    _print(summary, as_json)


def _begin(
    config: Optional[Path], space: Optional[Path], assignments: list[str], folder: Path, tuner: str, *options: Any
) -> dict[str, Any]:
    if config is None or space is None:
        raise InputError(
            "give a config and a space file (facetrain tune configs/x.yaml configs/tuning/margin_lr_decay.yaml), or "
            "--resume DIR to go on with a search"
        )
    if tuner not in _TUNERS:
        hint = did_you_mean(tuner, _TUNERS)
        raise InputError(f"--tuner: expected {', '.join(_TUNERS)}, received {tuner!r}{hint}")
    from facetrain import tuning
    from facetrain.config import load_config

    loaded = load_config(config, assignments)
    with _hint_at_resuming(folder):
        return tuning.begin(loaded, tuning.load_space(space), folder, tuner, *options, show_progress=True)


def _join(address: str, folder: Path, worker_id: str, ends_with_parent: bool) -> None:
    from facetrain.tuning import worker

    if ends_with_parent:
        worker.end_with_parent()
    worker.join(folder, address, worker_id)


def _print(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    from facetrain import tuning
    from facetrain.tuning.report import ranked

    search = tuning.Search.open(summary["search"])
    metric, keys = search.settings.objective.metric, list(search.settings.space)
    epochs = ["epochs"] if search.settings.tuner == "hyperband" else []
    rows = [
        [
            record.trial,
            record.value if record.value is not None else record.status,
            *([record.epochs] if epochs else []),
            None if record.seconds is None else round(record.seconds),
            *(record.values.get(key) for key in keys),
        ]
        for record in ranked(search, tuning.read_records(search))
    ]
    print_table(["trial", metric, *epochs, "seconds", *keys], rows, numeric=[metric, *epochs, "seconds"])
    print_text("")
    if summary["best"] is not None:
        print_text(f"best: trial {summary['best']['trial']} with {summary['best']['value']:.6g}")
        print_text(f"train it: facetrain train {summary['best_config']} --name best")
    print_text(f"report: {summary['report']}")


@contextmanager
def _hint_at_resuming(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        note(f"stopped: go on with 'facetrain tune --resume {folder}'")
        raise
