"""The networks: one file per architecture, one registry, one builder."""

from fertiray.models.registry import MODELS, ModelSpec, build_model
from fertiray.models.staged import intermediates

__all__ = ["MODELS", "ModelSpec", "build_model", "intermediates"]
