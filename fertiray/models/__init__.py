"""The networks: one file per architecture, one registry, one builder."""

from fertiray.models.registry import MODELS, ModelSpec, build_model

__all__ = ["MODELS", "ModelSpec", "build_model"]
