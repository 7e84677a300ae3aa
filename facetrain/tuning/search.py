"""The folder of a search: its settings, its trials, and what came of them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Optional

from pydantic import Field

from facetrain.config import Config, dump_yaml
from facetrain.config.documents import read_document, to_yaml
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_path
from facetrain.tuning.dimensions import Dimension
from facetrain.tuning.settings import check_hyperband, check_space, objective_evaluation, proxy_assignments
from facetrain.tuning.space import SpaceFile, parse

DEFAULT_TRIALS = 20
SETTINGS_FILE, BASE_FILE, BEST_FILE = "search.yaml", "base.yaml", "best.yaml"


class Settings(SpaceFile):
    """What ``search.yaml`` holds: the space file and what the command line added."""

    tuner: Literal["random", "bayesian", "hyperband"] = Field("random", description="Who proposes settings.")
    trials: Optional[int] = Field(None, ge=1, description="Most trials; null: as many as Hyperband makes.")
    workers: int = Field(1, ge=1, description="Trials at the same time.")
    evaluation: str = Field(description="Evaluation whose number decides.")
    proxies: list[str] = Field(default_factory=list, description="Assignments that make trials cheap.")
    max_epochs: Optional[int] = Field(None, description="Epochs of the longest trials of Hyperband.")


class Search:
    """Paths and settings of a search.

    Args:
        path: the folder.
        settings: what is searched, and how.
    """

    def __init__(self, path: PathLike, settings: Settings):
        self.path = Path(path)
        self.settings = settings
        self.base = self.path / BASE_FILE
        self.best = self.path / BEST_FILE
        self.report = self.path / "report.html"
        self.trials = self.path / "trials"
        self.outcomes = self.path / "outcomes"
        self.logs = self.path / "logs"
        self.tensorboard = self.path / "tensorboard"
        self.state = self.path / "state"
        self.dimensions: list[Dimension] = settings.dimensions()

    @classmethod
    def create(
        cls, path: PathLike, config: Config, space: SpaceFile, tuner: str, trials: Optional[int], workers: int = 1
    ) -> Search:
        """Checks everything and makes the folder; imports no TensorFlow.

        Raises:
            InputError: if there is a search already, or for whatever a trial would be refused for.
        """
        path = Path(path)
        if (path / SETTINGS_FILE).exists():
            raise InputError(
                f"{path}: there is a search already; go on with it by 'facetrain tune --resume {path}', or choose "
                "another --dir"
            )
        if tuner == "bayesian" and find_spec("sklearn") is None:
            raise InputError(
                "the tuner 'bayesian' needs the Python package scikit-learn, which is not installed: pip install "
                "'facetrain[tune]', or take --tuner random or hyperband"
            )
        proxies = proxy_assignments(config, space.proxy, config.seed)
        with atomic_path(path / BASE_FILE) as base:
            base.write_text(dump_yaml(config), encoding="utf-8")
            check_space(base, space, proxies)
            longest = check_hyperband(base, space, proxies) if tuner == "hyperband" else None
        values: dict[str, Any] = {
            **space.model_dump(by_alias=True),
            "tuner": tuner,
            "trials": trials if trials or tuner == "hyperband" else DEFAULT_TRIALS,
            "workers": workers,
            "evaluation": objective_evaluation(config, space.objective),
            "proxies": proxies,
            "max_epochs": longest,
        }
        search = cls(path, Settings.model_validate(values))
        search.save()
        return search

    @classmethod
    def open(cls, path: PathLike) -> Search:
        """Opens the folder of a search.

        Raises:
            InputError: if it is none.
        """
        file = Path(path) / SETTINGS_FILE
        if not file.is_file():
            raise InputError(f"{path}: expected the folder of a search with {SETTINGS_FILE}, found none")
        document = read_document(file)
        return cls(path, parse(Settings, document.values, document, str(file)))

    def save(self) -> None:
        """Writes the settings."""
        with atomic_path(self.path / SETTINGS_FILE) as temporary:
            temporary.write_text(to_yaml(self.settings.model_dump(by_alias=True)), encoding="utf-8")

    def change(self, **numbers: Optional[int]) -> None:
        """Changes ``trials`` or ``workers``; None leaves them as they are."""
        given = {name: number for name, number in numbers.items() if number is not None}
        self.settings = self.settings.model_copy(update=given)
        self.save()

    def run_of(self, trial: str) -> Path:
        """Returns the run directory of a trial."""
        return self.trials / trial

    def outcome_of(self, trial: str) -> Path:
        """Returns the file that says how a trial ended."""
        return self.outcomes / f"{trial}.json"
