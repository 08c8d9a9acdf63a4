"""Folders of images for the official scorers of GenEval and DPG-Bench: python -m ssd_jax.eval.benchmarks --help

What the scorers read is written from their own code: GenEval (arXiv 2310.11513) at djghosh13/geneval af4902f, DPG-Bench
(arXiv 2403.05135) at TencentQQGYLab/ELLA 3c228f1.
"""

from ssd_jax.eval.benchmarks.base import Benchmark
from ssd_jax.eval.benchmarks.dpg import DPG
from ssd_jax.eval.benchmarks.geneval import GenEval

BENCHMARKS: dict[str, Benchmark] = {"geneval": GenEval(), "dpg": DPG()}
"""By the names of the command line."""
