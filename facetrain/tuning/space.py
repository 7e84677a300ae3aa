"""The space file: what a search varies, what it wants more of, and how trials are made cheap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from facetrain.config.documents import Document, read_document
from facetrain.config.section import Section
from facetrain.config.walk import dotted
from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike
from facetrain.tuning.dimensions import Dimension

KINDS = ("choice", "int", "float", "boolean")


class Objective(Section):
    """The number that decides which trial is better."""

    evaluation: Optional[str] = Field(None, description="Name of the evaluation; null: the first.")
    metric: str = Field("accuracy", description="One of its numbers, such as accuracy, auc, eer or tar@far=1e-3.")
    direction: Literal["max", "min"] = Field("max", description="Whether more or less of it is better.")


class Entry(Section):
    """The values of one key, in one of four kinds."""

    choice: Optional[list[Any]] = Field(None, min_length=1, description="Any of these.")
    int_range: Optional[list[int]] = Field(None, alias="int", min_length=2, max_length=2, description="Whole numbers.")
    float_range: Optional[list[float]] = Field(None, alias="float", min_length=2, max_length=2, description="Numbers.")
    boolean: Optional[Literal[True]] = Field(None, description="true or false.")
    step: Optional[float] = Field(None, gt=0, description="Distance of the numbers; their ratio where log is true.")
    log: bool = Field(False, description="Whether numbers are spread evenly in their logarithm.")
    when: dict[str, Any] = Field(default_factory=dict, description="Other keys and the values at which this counts.")

    @model_validator(mode="after")
    def _one_kind(self) -> Entry:
        given = [kind for kind, value in self.by_kind().items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"expected one of {', '.join(KINDS)}, received {found}")
        bounds = self.int_range or self.float_range
        if bounds is None:
            if self.step is not None or self.log:
                raise ValueError("'step' and 'log' belong to int and float: leave them out")
            if self.choice and any(self.choice.count(value) > 1 for value in self.choice):
                raise ValueError(f"a choice holds each value once, received {self.choice}")
        else:
            self._check_bounds(bounds)
        return self

    def _check_bounds(self, bounds: list[Any]) -> None:
        if not bounds[0] < bounds[1]:
            raise ValueError(f"expected [smallest, largest], received {bounds}")
        if self.log and bounds[0] <= 0:
            raise ValueError(f"a logarithmic range begins above 0, received {bounds}")
        if self.log and self.step is not None and self.step <= 1:
            raise ValueError(f"the step of a logarithmic range is a ratio above 1, received {self.step:g}")
        if self.int_range and self.step is not None and self.step != int(self.step):
            raise ValueError(f"the step of whole numbers is a whole number, received {self.step:g}")

    def by_kind(self) -> dict[str, Any]:
        """Returns the four kinds with what was given for each."""
        return dict(zip(KINDS, (self.choice, self.int_range, self.float_range, self.boolean)))

    def dimension(self, key: str, name: str = "") -> Dimension:
        """Returns what this says about a key, for keras-tuner under another name."""
        (kind,) = (name for name, value in self.by_kind().items() if value is not None)
        low, high = self.int_range or self.float_range or (0, 1)
        when = tuple((k, tuple(v) if isinstance(v, list) else (v,)) for k, v in self.when.items())
        return Dimension(key, kind, tuple(self.choice or ()), low, high, self.step, self.log, when, name or key)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


Entries = Annotated[list[Entry], BeforeValidator(_as_list)]


class Proxy(Section):
    """What makes a trial cheaper than the training it stands for."""

    identities: Optional[int] = Field(None, ge=2, description="People of the training set that trials see.")
    epochs: Optional[float] = Field(None, gt=0, description="Length of a trial; stages are shortened alike.")
    size: Optional[int] = Field(None, ge=16, le=1024, description="Side of the crops in pixels.")
    set: dict[str, Any] = Field(default_factory=dict, description="Further config keys and their values in trials.")


class HyperbandSettings(Section):
    """How Hyperband divides the epochs. Li et al., JMLR 2018, arXiv 1603.06560."""

    factor: int = Field(3, ge=2, description="One of so many trials goes on, for so many times the epochs.")
    max_epochs: Optional[int] = Field(None, ge=1, description="Epochs of the longest trials; null: all of the config.")


class SpaceFile(Section):
    """A whole space file."""

    objective: Objective = Field(default_factory=Objective, description="What the search wants more of.")
    space: dict[str, Entries] = Field(min_length=1, description="Config keys, and the values that they may take.")
    proxy: Proxy = Field(default_factory=Proxy, description="What makes trials cheap.")
    hyperband: HyperbandSettings = Field(default_factory=HyperbandSettings, description="Settings of that tuner.")
    seed: int = Field(1, ge=1, description="Seed of the search; trials have the seed of the config.")
    retries: int = Field(1, ge=0, description="Times that a trial whose process died is taken up again.")
    max_failures: int = Field(10, ge=1, description="Failed trials in a row that end the search.")

    @model_validator(mode="after")
    def _conditions_have_parents(self) -> SpaceFile:
        seen: dict[str, list[Dimension]] = {}
        for key, entries in self.space.items():
            made = [entry.dimension(key) for entry in entries]
            if len(made) > 1 and not all(dimension.when for dimension in made):
                raise ValueError(f"'space.{key}' is given more than once: each then needs a 'when'")
            for parent, values in (condition for dimension in made for condition in dimension.when):
                _check_condition(key, parent, values, seen)
            seen[key] = made
        return self

    def dimensions(self) -> list[Dimension]:
        """Returns all keys with their values, in the order of the file."""
        return [
            entry.dimension(key, key if len(entries) == 1 else f"{key}#{number}")
            for key, entries in self.space.items()
            for number, entry in enumerate(entries)
        ]


def _check_condition(key: str, parent: str, values: Iterable[Any], seen: Mapping[str, list[Dimension]]) -> None:
    if parent not in seen:
        hint = did_you_mean(parent, seen)
        raise ValueError(f"'space.{key}': 'when' looks at {parent!r}, which does not stand above it in 'space'{hint}")
    if len(seen[parent]) > 1 or seen[parent][0].kind not in ("choice", "boolean"):
        raise ValueError(f"'space.{key}': 'when' looks at {parent!r}, which should be one choice or boolean")
    for value in values:
        if value not in (seen[parent][0].choices or (False, True)):
            raise ValueError(f"'space.{key}': 'when' expects {parent!r} to be {value!r}, which it can never be")


def load_space(path: PathLike) -> SpaceFile:
    """Reads a space file.

    Raises:
        InputError: naming key, file and line, what was expected and what was received.
    """
    document = read_document(Path(path))
    return parse(SpaceFile, document.values, document, str(path))


def parse(model: type[Section], values: Any, document: Document, where: str) -> Any:
    """Returns a section of plain values; raises InputError with the first thing that is wrong with them."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    path = tuple(part for part in problem["loc"] if part not in ("int_range", "float_range"))
    places = (document.origins.get(path[:length]) for length in range(len(path), 0, -1))
    place = next((place for place in places if place), where)
    key = f"'{dotted(path)}' ({place})" if path else place
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = [field.alias or name for name, field in _section_at(model, path).model_fields.items()]
        hint = did_you_mean(path[-1], known) or f"; known here: {', '.join(known)}"
        raise InputError(f"unknown key {key}{hint}")
    if kind == "missing":
        raise InputError(f"{key} is missing: give it a value")
    if kind == "value_error":
        raise InputError(f"{key}: {problem['ctx']['error']}")
    text, received = problem["msg"], f"received {problem['input']!r:.60}"
    if text.startswith("Input should be "):
        raise InputError(f"{key} should be {text[len('Input should be ') :]}, {received}")
    raise InputError(f"{key}: {text[0].lower()}{text[1:]}, {received}")


def _section_at(model: type[Section], path: tuple[Any, ...]) -> type[Section]:
    sections = {"objective": Objective, "proxy": Proxy, "hyperband": HyperbandSettings, "space": Entry}
    return next((sections[part] for part in path[:-1] if part in sections), model)
