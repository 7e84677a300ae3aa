"""``facetrain data overlap``."""

from __future__ import annotations

from pathlib import Path

import typer

from facetrain.cli.output import print_json, print_text
from facetrain.errors import InputError


def overlap(
    train: Path = typer.Argument(..., metavar="TRAIN", help="Image folder or record file."),
    evaluation: Path = typer.Argument(..., metavar="EVAL", help="Pair list, or another data set."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """List the people of one data set who are in another, by name.

    Capitals do not count, and _, - and blanks are the same.
    """
    from facetrain.data.overlap import shared_names

    names, others = _identities(train), _eval_identities(evaluation)
    shared = shared_names(names, others)
    if as_json:
        result = {"train": len(names), "eval": len(others), "shared": len(shared), "names": shared}
        print_json(result)
        return
    for name in shared:
        print_text(name)
    print_text(f"{len(shared)} of {len(names)} identities in {train} are among the {len(others)} in {evaluation}")


def _identities(path: Path) -> list[str]:
    from facetrain.data.sources import open_source

    source = open_source(path)
    if not source.has_names:
        raise InputError(
            f"{path}: its identities have numbers, not names, which cannot be compared; write lines "
            "label<TAB>name into identities.txt beside it"
        )
    return source.identities


def _eval_identities(path: Path) -> list[str]:
    from facetrain.data.overlap import names_from_paths
    from facetrain.evaluation import load_pairs

    if path.is_dir() or path.suffix == ".rec":
        return _identities(path)
    names = names_from_paths(load_pairs(path).names)
    if not names:
        raise InputError(f"{path}: expected images in one folder per identity, but this set holds no names to compare")
    return names
