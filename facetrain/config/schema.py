"""What an experiment's configuration may contain."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Optional

from pydantic import Field, create_model, model_validator

from facetrain.config.distillation import DistillationConfig
from facetrain.config.fields import Duration, Spec, SpecPatch, merge_spec
from facetrain.config.runtime import RuntimeConfig
from facetrain.config.section import Section

# The components of a config that names none. Files and overrides are laid over these, so that an argument can be set
# without repeating the name.
DEFAULT_COMPONENTS: dict[str, Any] = {
    "data": {"order": {"name": "shuffle"}},
    "model": {"backbone": {"name": "mobilefacenet"}, "neck": {"name": "gdc"}},
    "head": {"name": "cosine"},
    "loss": {"name": "arcface"},
    "optimizer": {"name": "mxnet_sgd"},
    "schedule": {"name": "warmup_cosine", "peak_lr": 0.1},
}


def _default(*path: str) -> Any:
    def copy_default() -> dict[str, Any]:
        value = DEFAULT_COMPONENTS
        for key in path:
            value = value[key]
        return dict(value)

    return copy_default


_FROM: Any = Field(min_length=1, description="Run directory, or the folder of a saved model such as runs/first/best.")


class SyntheticConfig(Section):
    """Generated faces."""

    identities: int = Field(200, ge=1, description="Number of generated people.")
    images: int = Field(20, ge=1, description="Images of each person.")
    seed: int = Field(0, ge=0, description="Seed of the faces; other seeds give other people.")
    first_identity: int = Field(0, ge=0, description="Number of the first person; disjoint ranges share nobody.")


class SyntheticPairsConfig(SyntheticConfig):
    """Verification pairs of generated faces."""

    pairs: int = Field(3000, ge=2, description="Number of pairs, half of them of the same person.")


class DataConfig(Section):
    """Where training images come from and how they reach the model."""

    path: Optional[str] = Field(None, description="Folder with one sub-folder a person, or a packed data set.")
    kind: Literal["auto", "folder", "record", "tfrecord", "lst", "csv", "synthetic"] = Field(
        "auto", description="Kind of source; 'auto' looks at the path, and generates faces where there is none."
    )
    sources: list[dict[str, Any]] = Field(
        default_factory=list, description="Several data sets in place of one path: kind or path, and arguments."
    )
    identities: Literal["separate", "by-name"] = Field(
        "separate", description="Whether a name that several of these use is one person."
    )
    landmarks: Optional[str] = Field(None, description="CSV of five points an image; images are then aligned.")
    size: int = Field(112, ge=16, le=1024, description="Side of the square crop that the model sees, in pixels.")
    min_images: int = Field(1, ge=1, description="People with fewer images are left out.")
    cache: Literal["memory", "disk", "none"] = Field(
        "disk", description="Where decoded images are kept in a mapped file, if at all."
    )
    cache_dir: Optional[str] = Field(None, description="Folder of that file; null means beside other user caches.")
    on_unreadable: Literal["skip", "fail"] = Field("skip", description="What an unreadable image does to the run.")
    batch_size: int = Field(64, ge=1, description="Images in one update of the weights, over all devices together.")
    order: Spec = Field(default_factory=_default("data", "order"), description="Which images an update sees.")
    augment: list[Spec] = Field(
        default_factory=lambda: [{"name": "flip"}], description="Augmentations in their order, names or mappings."
    )
    augment_on: Literal["cpu", "device"] = Field(
        "cpu", description="Whether images are augmented in the pipeline, or inside the train step on the device."
    )
    overlap: Literal["warn", "fail", "ignore"] = Field(
        "warn", description="What people in both the training set and an evaluation set, by name, do to the run."
    )
    variants: int = Field(
        0, ge=0, description="Versions of each image that 'augment' makes for the cache; 0 augments in each step."
    )
    augment_after: list[Spec] = Field(
        default_factory=list, description="Augmentations of each step where 'augment' makes cached versions."
    )
    synthetic: SyntheticConfig = Field(default_factory=SyntheticConfig, description="Settings of generated faces.")

    @model_validator(mode="after")
    def _path_or_sources(self) -> DataConfig:
        given = [key for key, value in (("path", self.path), ("landmarks", self.landmarks)) if value is not None]
        if self.sources and (given or self.kind != "auto"):
            extra = given[0] if given else "kind"
            raise ValueError(f"data.sources replaces data.{extra}, but both are given: set data.{extra} in each source")
        return self

    @model_validator(mode="after")
    def _variants_have_a_place(self) -> DataConfig:
        if self.variants and self.cache == "none":
            raise ValueError(
                f"variants is {self.variants}, which are kept in the cache, but cache is 'none': "
                "set data.cache to 'memory' or 'disk', or data.variants to 0"
            )
        if self.variants and not self.augment:
            raise ValueError(
                f"variants is {self.variants}, but augment is empty, which would make equal copies: "
                "name augmentations, or set data.variants to 0"
            )
        if self.augment_after and not self.variants:
            raise ValueError(
                "augment_after follows cached variants, but variants is 0: "
                "set data.variants, or move its augmentations to data.augment"
            )
        return self

    @property
    def augment_steps(self) -> list[dict[str, Any]]:
        """What is done to images in each step."""
        return self.augment_after if self.variants else self.augment


class ModelConfig(Section):
    """The embedding model: backbone and neck."""

    backbone: Spec = Field(default_factory=_default("model", "backbone"), description="Crop to feature map.")
    neck: Spec = Field(default_factory=_default("model", "neck"), description="Feature map to embedding.")
    embedding_size: int = Field(512, ge=2, description="Length of the embedding.")
    scaling: str = Field("minus_one_one_127_5", description="Name of the pixel scaling, saved with the model.")
    sync_batch_norm: bool = Field(
        False, description="Whether batch normalisation sees the batch of all devices and processes together."
    )


class StageConfig(Section):
    """One stretch of training; what it does not say is taken from the top level."""

    name: Optional[str] = Field(None, description="Name of the stage in logs; null means its number.")
    epochs: float = Field(gt=0, description="Length of the stage in epochs, fractions allowed.")
    loss: Optional[SpecPatch] = Field(None, description="Arguments laid over the top-level loss, or another loss.")
    head: Optional[SpecPatch] = Field(None, description="Arguments laid over the top-level head, or another head.")
    order: Optional[SpecPatch] = Field(None, description="Arguments laid over data.order, or another order.")
    schedule: Optional[SpecPatch] = Field(None, description="Arguments laid over the top-level schedule.")
    frozen: Optional[Literal["backbone", "embedding", "head"]] = Field(
        None, description="The part that does not train; 'embedding' is backbone and neck."
    )
    freeze: list[str] = Field(
        default_factory=list,
        description="Shell patterns of further variables that do not train; '!' before one takes it back.",
    )


class SwaConfig(Section):
    """The mean of snapshots of the weights, which is evaluated and saved in place of the last weights."""

    start: Duration = Field(description="When the first snapshot is taken.")
    every: Duration = Field("1 epoch", description="Distance of snapshots.")


class TrainConfig(Section):
    """How training runs."""

    epochs: Optional[int] = Field(None, ge=1, description="Length of training; null where stages give it.")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="Arithmetic of the model; head, loss and weights stay float32."
    )
    jit_compile: bool = Field(False, description="Compile the step with XLA; worth it on GPUs only.")
    accumulate_steps: int = Field(1, ge=1, description="Parts in which the gradient of one batch is computed.")
    clip_norm: Optional[float] = Field(None, gt=0, description="Largest global norm of the gradient; null is off.")
    ema: Optional[float] = Field(None, gt=0, lt=1, description="Decay of averaged weights; null is off.")
    swa: Optional[SwaConfig] = Field(None, description="Mean of snapshots of the weights, in place of 'ema'.")
    sam: Optional[float] = Field(
        None, gt=0, description="Distance at which sharpness-aware minimisation takes its gradients; null is off."
    )
    deterministic: bool = Field(False, description="Only reproducible kernels; slower on GPUs.")
    checkpoint_every: Duration = Field("1 epoch", description="Distance of checkpoints.")
    keep_checkpoints: int = Field(3, ge=1, description="Number of newest checkpoints that are kept.")
    evaluate_every: Optional[Duration] = Field("1 epoch", description="Distance of evaluations; null: at the end.")
    log_every: int = Field(10, ge=1, description="Updates between two lines of metrics.")
    tensorboard: bool = Field(True, description="Whether metrics go to TensorBoard too.")
    runs_dir: str = Field("runs", min_length=1, description="Folder of run directories.")

    @model_validator(mode="after")
    def _one_average(self) -> TrainConfig:
        if self.ema is not None and self.swa is not None:
            raise ValueError("one average of the weights can be kept, 'ema' or 'swa': set the other to null")
        return self


class EvaluateConfig(Section):
    """One evaluation during and after training."""

    name: Optional[str] = Field(None, description="Name in logs and reports; null means from the path.")
    kind: Literal["verification"] = Field("verification", description="Protocol of the evaluation.")
    path: Optional[str] = Field(None, description="Pair list or .bin file.")
    synthetic: Optional[SyntheticPairsConfig] = Field(None, description="Generated pairs in place of a file.")
    flip: bool = Field(True, description="Whether the embedding of the mirrored image is added.")
    folds: int = Field(10, ge=2, description="Folds of the cross-validated threshold.")

    @model_validator(mode="after")
    def _one_source(self) -> EvaluateConfig:
        if (self.path is None) == (self.synthetic is None):
            state = "neither is given" if self.path is None else "both are given: set the one you do not mean to null"
            raise ValueError(f"an evaluation takes its pairs from either 'path' or 'synthetic', and {state}")
        return self


class InitConfig(create_model("_From", __base__=Section, **{"from": (str, _FROM)})):
    """Weights of another run to start from."""

    weights: Literal["best", "last"] = Field(
        "best", description="Those of its best model, or of its last checkpoint; a model folder has the best only."
    )
    head: Literal["auto", "new", "drop"] = Field(
        "auto",
        description="Class centres: 'auto' keeps those of known names and takes the mean embedding of others, 'new' "
        "takes that of all, 'drop' begins with random ones.",
    )

    @property
    def origin(self) -> str:
        """The run or model folder; its key is a word that Python keeps for itself."""
        return getattr(self, "from")


class ResolvedStage(NamedTuple):
    """A stage with every component spelled out."""

    name: str
    epochs: float
    loss: dict[str, Any]
    head: dict[str, Any]
    order: dict[str, Any]
    schedule: dict[str, Any]
    frozen: Optional[str]
    freeze: tuple[str, ...]


class Config(Section):
    """A whole experiment."""

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run and of its directory."
    )
    seed: int = Field(1, ge=0, description="Seed of weights, order of images and augmentation.")
    data: DataConfig = Field(default_factory=DataConfig, description="Training images.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Embedding model.")
    head: Spec = Field(default_factory=_default("head"), description="Embedding to class cosines.")
    loss: Spec = Field(default_factory=_default("loss"), description="Loss on the head's output.")
    losses: list[Spec] = Field(
        default_factory=list, description="Losses to add up, each with a 'weight'; they take the place of 'loss'."
    )
    optimizer: Spec = Field(default_factory=_default("optimizer"), description="Update rule.")
    schedule: Spec = Field(default_factory=_default("schedule"), description="Learning rate over time.")
    stages: list[StageConfig] = Field(default_factory=list, description="Stretches of training; empty means one.")
    train: TrainConfig = Field(default_factory=TrainConfig, description="Training loop.")
    init: Optional[InitConfig] = Field(None, description="Weights of another run to start from; null: random ones.")
    distillation: Optional[DistillationConfig] = Field(None, description="Teachers to learn from; null: none.")
    evaluate: list[EvaluateConfig] = Field(default_factory=list, description="Evaluations.")
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig, description="Devices and processes.")

    @model_validator(mode="after")
    def _length_is_clear(self) -> Config:
        epochs, total = self.train.epochs, sum(stage.epochs for stage in self.stages)
        if epochs is None and not self.stages:
            raise ValueError("the length of training is not given: set train.epochs (--set train.epochs=20) or stages")
        if epochs is not None and self.stages and abs(total - epochs) > 1e-6:
            raise ValueError(
                f"train.epochs is {epochs} but 'stages' take {total:g} together: "
                "change the stages (--set stages.0.epochs=...) or leave train.epochs out (--set train.epochs=null)"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_numbers(self) -> Config:
        for number, spec in enumerate(self.losses):
            weight = spec.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
                raise ValueError(f"'losses.{number}.weight' should be a number above 0, received {weight!r}")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Config:
        batch, parts = self.data.batch_size, self.train.accumulate_steps
        if batch % parts:
            raise ValueError(
                f"data.batch_size is {batch}, which train.accumulate_steps={parts} does not divide: "
                f"take {batch // parts * parts or parts} as the batch size"
            )
        return self

    def _loss_of(self, stage: StageConfig) -> dict[str, Any]:
        """The stage's patch over the loss, or over the first of the losses that are added up."""
        if not self.losses:
            return merge_spec(self.loss, stage.loss or {})
        return {"name": "sum", "losses": [merge_spec(self.losses[0], stage.loss or {}), *self.losses[1:]]}

    def resolved_stages(self) -> list[ResolvedStage]:
        """Returns the stages of training, at least one, each with its components spelled out."""
        # Validation made sure that epochs are known where there are no stages.
        stages = self.stages or [StageConfig(epochs=float(self.train.epochs or 0))]
        return [
            ResolvedStage(
                name=stage.name or f"stage{number}",
                epochs=stage.epochs,
                loss=self._loss_of(stage),
                head=merge_spec(self.head, stage.head or {}),
                order=merge_spec(self.data.order, stage.order or {}),
                schedule=merge_spec(self.schedule, stage.schedule or {}),
                frozen=stage.frozen,
                freeze=tuple(stage.freeze),
            )
            for number, stage in enumerate(stages, start=1)
        ]
