"""The section ``runtime``."""

from __future__ import annotations

from typing import Any, Literal, Optional

from pydantic import Field, model_validator

from facetrain.config.fields import Threads
from facetrain.config.section import Section


class RuntimeConfig(Section):
    """On what training runs."""

    kind: Literal["auto", "single", "mirrored", "multiworker", "horovod"] = Field(
        "auto", description="Kind of distribution; 'auto' looks at how the process was started."
    )
    devices: Optional[list[str]] = Field(None, description="Devices such as 'GPU:0'; null means all.")
    threads: Threads = Field(
        "auto", description="Threads of TensorFlow in each process; 'auto' divides the cores of a host."
    )
    compression: Literal["none", "fp16"] = Field(
        "none", description="Horovod: number format in which gradients are sent."
    )
    gradient_groups: Optional[int] = Field(
        None, ge=1, description="Horovod: groups in which gradients are sent; null sends each as soon as it is known."
    )
    average: Literal["mean", "adasum"] = Field(
        "mean", description="Horovod: how gradients of ranks become one; 'adasum' needs a build with MPI."
    )
    hierarchical: bool = Field(
        False, description="Horovod: first within hosts, then among them; needs a build with MPI and NCCL."
    )
    fusion_mb: Optional[float] = Field(
        None, ge=0, description="Horovod: size up to which small gradients are sent together; 0: none are."
    )
    cycle_ms: Optional[float] = Field(
        None, gt=0, description="Horovod: how long a gradient waits for others to be sent with, in ms."
    )
    peer_timeout: float = Field(
        30.0, ge=2, description="Seconds without a sign of life after which a process of the training counts as lost."
    )
    commit_every: int = Field(
        50, ge=1, description="Elastic Horovod: updates between commits in memory, from which it goes on."
    )

    @property
    def horovod_options(self) -> dict[str, Any]:
        """What differs from the defaults, of the settings that Horovod alone has."""
        names = ("compression", "gradient_groups", "average", "hierarchical", "fusion_mb", "cycle_ms")
        fields = type(self).model_fields
        return {name: getattr(self, name) for name in names if getattr(self, name) != fields[name].default}

    @model_validator(mode="after")
    def _options_have_a_kind(self) -> RuntimeConfig:
        options = self.horovod_options
        if options and self.kind not in ("auto", "horovod"):
            raise ValueError(
                f"{next(iter(options))} is a setting of Horovod, but kind is {self.kind!r}: leave it out, or set "
                "runtime.kind to 'horovod' or 'auto'"
            )
        if self.devices is not None and self.kind not in ("auto", "mirrored"):
            raise ValueError(
                f"devices is a setting of 'mirrored', but kind is {self.kind!r}: leave it out, or let "
                "CUDA_VISIBLE_DEVICES choose"
            )
        if self.average == "adasum" and self.compression != "none":
            raise ValueError("average 'adasum' sends gradients as they are: set runtime.compression to 'none'")
        return self
