"""What users hold: a loaded model that turns prompts into images."""

from ssd_jax.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]
