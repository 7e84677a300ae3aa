"""The import rule of the house.

1. A module imports only from a lower level, or from earlier files of its own package (no cycles).
2. Packages of one level never import each other.
3. Only the composition root, tuning and the command line import ``config``.
Imports inside functions count, and so do the targets of registries (``"facetrain.losses.margins:arcface"``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "facetrain"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE
# Which level a part of the package stands on; parts that are not there yet have their place already.
LEVELS = {
    "collectives": 0,
    "compiled": 0,
    "errors": 0,
    "files": 0,
    "kernels": 0,
    "registry": 0,
    "progress": 0,
    "serialization": 0,
    "images": 1,
    "schedules": 1,
    "config": 2,
    "distributed": 2,
    "align": 2,
    "layers": 2,
    "losses": 2,
    "optimizers": 2,
    "data": 3,
    "backbones": 3,
    "surgery": 3,
    "evaluation": 3,
    "embeddings": 3,
    "heads": 3,
    "models": 4,
    "export": 5,
    "convert": 5,
    "distillation": 6,
    "training": 6,
    "experiment": 7,
    "tuning": 8,
    "cli": 9,
    "__main__": 10,
}
MAY_IMPORT_CONFIG = {"config", "experiment", "tuning", "cli"}
# Third-party packages that only one part touches, so that a later change of the stack stays small.
TOUCHED_BY = {"tensorflow_addons": {"optimizers"}, "horovod": {"distributed"}, "keras_tuner": {"tuning"}}

_TARGET = re.compile(rf"{PACKAGE}(?:\.\w+)+(?::\w+)?")
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def part_of(module: str) -> str:
    """``facetrain.losses.margins`` -> ``losses``; the package itself -> an empty string."""
    return (module.split(".") + [""])[1]


def resolve(name: str) -> str:
    """Returns the longest prefix of a dotted name that is a module of ours."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name


def imported_names(tree: ast.AST, module: str) -> Iterator[str]:
    """Yields dotted names from import statements anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def lazy_targets(tree: ast.AST) -> Iterator[str]:
    """Yields dotted names from text such as ``"facetrain.losses.margins:arcface"``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _TARGET.fullmatch(node.value):
            yield node.value.partition(":")[0]


def dependencies(source: str, module: str) -> set[str]:
    """Returns the modules of ours that a module depends on, other than the package itself."""
    tree = ast.parse(source)
    names = [*imported_names(tree, module), *lazy_targets(tree)]
    return {resolve(name) for name in names if name.split(".")[0] == PACKAGE} - {PACKAGE, module}


def violations(source: str, module: str) -> list[str]:
    """Returns a sentence for each import that breaks a rule."""
    part, found = part_of(module), []
    for target in sorted(dependencies(source, module)):
        other = part_of(target)
        if other == part or LEVELS[part] == LEVELS[other] == 0:
            continue
        if LEVELS[other] >= LEVELS[part]:
            found.append(f"{module} (level {LEVELS[part]}) imports {target} (level {LEVELS[other]})")
        if other == "config" and part not in MAY_IMPORT_CONFIG:
            found.append(f"{module} imports {target}: components take plain arguments")
    return found


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Returns the modules of one cycle, or an empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :] + [node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            cycle = visit(target, [*path, node])
            if cycle:
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := visit(node, []))), [])


def statements_only(source: str, module: str) -> set[str]:
    """As ``dependencies`` without registry targets, which are imported long after both modules are complete."""
    names = imported_names(ast.parse(source), module)
    return {resolve(name) for name in names if name.split(".")[0] == PACKAGE} - {PACKAGE, module}


def test_every_part_has_a_level():
    parts = {part_of(module) for module in MODULES} - {""}
    assert parts <= set(LEVELS), "add new parts to LEVELS (and to the design)"


@pytest.mark.parametrize("module", [module for module in MODULES if module != PACKAGE])
def test_imports_go_down(module):
    assert violations(MODULES[module].read_text(encoding="utf-8"), module) == []


def test_there_are_no_cycles():
    graph = {name: statements_only(path.read_text(encoding="utf-8"), name) for name, path in MODULES.items()}
    assert find_cycle(graph) == []


@pytest.mark.parametrize("package", TOUCHED_BY)
def test_replaceable_packages_are_touched_in_one_place(package):
    users = {
        part_of(module)
        for module, path in MODULES.items()
        if any(name.split(".")[0] == package for name in imported_names(ast.parse(path.read_text("utf-8")), module))
    }
    assert users <= TOUCHED_BY[package]


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("facetrain.losses.x", "from facetrain.models import y", "imports facetrain.models"),
        ("facetrain.losses.x", "from facetrain import optimizers", "imports facetrain.optimizers"),
        ("facetrain.losses.x", "def f():\n    import facetrain.layers.cosine", "imports facetrain.layers"),
        ("facetrain.losses.x", "TARGET = 'facetrain.training.trainer:Trainer'", "imports facetrain.training"),
        ("facetrain.models.x", "from facetrain.config import load_config", "components take plain arguments"),
    ],
)
def test_the_rule_sees_what_it_should(module, source, message):
    (found,) = violations(source, module)
    assert message in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("facetrain.losses.x", "from facetrain.errors import InputError\nfrom facetrain.losses import margins"),
        ("facetrain.registry", "from facetrain.errors import InputError"),
        ("facetrain.cli.x", "from facetrain.config import load_config\nfrom facetrain import __version__"),
    ],
)
def test_the_rule_allows_what_it_should(module, source):
    assert violations(source, module) == []


def test_cycles_are_found():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}}) == []
