"""The section ``distillation``."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

from pydantic import Field, model_validator

from facetrain.config.fields import Spec
from facetrain.config.section import Section


class TeacherConfig(Section):
    """One of several teachers."""

    path: str = Field(min_length=1, description="As distillation.teacher.")
    weight: float = Field(1.0, gt=0, description="Relative to those of the other teachers.")
    contract: Optional[dict[str, Any]] = Field(None, description="As distillation.contract.")
    head: Optional[str] = Field(None, description="As distillation.head.")


class DistillationConfig(Section):
    """Teachers, and what is learned from them."""

    teacher: Optional[str] = Field(
        None, description="Run or model folder, .onnx or .tflite file, or embeddings that 'facetrain embed' stored."
    )
    contract: Optional[dict[str, Any]] = Field(
        None, description="Of an .onnx file from elsewhere: input_size, scaling, channel_order, template."
    )
    head: Optional[str] = Field(
        None, description="Run directory whose class centres are the teacher's; null: those of its own run, if any."
    )
    teachers: list[TeacherConfig] = Field(default_factory=list, description="Several teachers in place of one.")
    several: Literal["average", "concatenate"] = Field(
        "average", description="Whether losses are averaged over teachers, or their embeddings are one."
    )
    sizes: Literal["project", "pca"] = Field(
        "project",
        description="Where embeddings differ in length: learn a map of the student's, or shorten stored ones.",
    )
    losses: list[Spec] = Field(
        default_factory=lambda: [{"name": "cosine"}],
        description="Losses against teachers, each with a 'weight': a number, or points {at: [...], values: [...]}.",
    )
    label_weight: Union[float, dict[str, Any]] = Field(1.0, description="Weight of 'loss', likewise.")
    centres: Literal["own", "teacher"] = Field("own", description="Whose class centres the head begins with.")
    slice: bool = Field(False, description="Whether the student begins as a slice of a wider teacher of its kind.")
    measure: bool = Field(True, description="Whether the cost of teachers is measured at the start.")

    @property
    def given(self) -> list[TeacherConfig]:
        """All teachers, however many were given."""
        if self.teacher is None:
            return list(self.teachers)
        return [TeacherConfig(path=self.teacher, contract=self.contract, head=self.head)]

    @model_validator(mode="after")
    def _one_way_of_naming(self) -> DistillationConfig:
        if self.teachers and (self.teacher, self.contract, self.head) != (None, None, None):
            raise ValueError("'teachers' takes the place of 'teacher', 'contract' and 'head', but both are given")
        return self
