"""The pipeline: loads a model and turns prompts into images."""

from ssd_jax.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]
