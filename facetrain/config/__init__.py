"""Typed configuration of an experiment: schema, YAML files with inheritance, overrides, fingerprint."""

from __future__ import annotations

from facetrain.config.load import (
    config_fingerprint,
    config_from_dict,
    dump_yaml,
    json_schema,
    load_config,
)
from facetrain.config.schema import Config, ResolvedStage

__all__ = [
    "Config",
    "ResolvedStage",
    "config_fingerprint",
    "config_from_dict",
    "dump_yaml",
    "json_schema",
    "load_config",
]
