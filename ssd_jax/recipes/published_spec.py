"""Defines the settings of draft-head training for a published backbone, parsed from a config like configs/emu3.py."""

import dataclasses
from pathlib import Path
from typing import Any, Self

from ssd_jax.decode.base import Decoder
from ssd_jax.decode.names import parse_decoder
from ssd_jax.decode.presets import PRESETS
from ssd_jax.errors import UserError
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.recipes.section import Section
from ssd_jax.training.head_training import DraftHeadsSpec
from ssd_jax.training.spec import PromptedSpec


@dataclasses.dataclass(frozen=True)
class FromPrompts:
    """Training images that the backbone generates itself.

    Attributes:
        file: a text file with a prompt per line.
        each: images per prompt.
        decoder: a lossless decoder.
    """

    file: str
    each: int
    decoder: Decoder


@dataclasses.dataclass(frozen=True)
class FromFolder:
    """Training images from a folder with captions; see `data.image_folder`."""

    folder: Path


@dataclasses.dataclass(frozen=True)
class PublishedSpec:
    """Settings of a complete training.

    Attributes:
        weights, vq_weights: folders or names of the backbone's checkpoint, and of its image tokenizer's if separate.
        architecture: the architecture that the checkpoint must have.
        mesh: devices, such as "data:1,model:4"; None is one.
        pictures: source of the images.
        size: image size, as for `Pipeline.generate`; None is the model's own.
        data, pictures_per_file: the folder of their codes, and images per shard.
        max_batch: images that are generated or encoded at once.
        heldout: number of held-out images.
        workdir: folder of checkpoints, logs, the report and export/.
        heads: settings of the heads' training.
    """

    weights: str
    vq_weights: str | None
    architecture: str
    mesh: str | None
    pictures: FromPrompts | FromFolder
    size: str | None
    data: Path
    pictures_per_file: int
    max_batch: int
    heldout: int
    workdir: Path
    heads: DraftHeadsSpec

    @classmethod
    def parse(cls, config: Any) -> Self:
        """Parses a `ConfigDict`; raises `UserError` for every mistake that can be found before a file is opened."""
        given = Section(config)
        weights, images, prompts_file = (given.text(name) for name in ("weights", "images", "prompts_file"))
        if not weights:
            raise UserError("No weights come with this config; say where they are with --config.weights=DIR.")
        if bool(images) == bool(prompts_file):
            raise UserError(
                "Heads are trained on images: give either --config.images=DIR, a folder of images with captions, "
                "or --config.prompts_file=FILE, and the model draws them."
            )
        heads = DraftHeadsSpec(
            from_dict(HeadsConfig, given.part("heads_model"), "config.heads_model"),
            smooth_l1=PromptedSpec.parse(given.part("heads"), "heads"),
            overlap=PromptedSpec.parse(given.part("overlap"), "overlap", least_steps=0),
            seed=given.whole("seed", 0, 2**32 - 1),
            window=given.whole("window", 0),
            report_images=given.whole("report_images", 1),
        )
        each, decoder = given.whole("pictures_per_prompt", 1), given.text("decoder")
        return cls(
            weights=weights,
            vq_weights=given.text("vq_weights") or None,
            architecture=Section(given.part("model"), "config.model").text("architecture"),
            mesh=given.text("mesh") or None,
            pictures=FromFolder(Path(images)) if images else FromPrompts(prompts_file, each, lossless(decoder)),
            size=given.text("size") or None,
            data=Path(given.text("data")),
            pictures_per_file=given.whole("pictures_per_file", 1),
            max_batch=given.whole("max_batch", 1),
            heldout=given.whole("heldout", 1),
            workdir=Path(given.text("workdir")),
            heads=heads,
        )

    @property
    def export(self) -> Path:
        """The folder of the final heads."""
        return self.workdir / "export"

    @property
    def report(self) -> Path:
        """The file of their evaluation."""
        return self.workdir / "report.md"


def lossless(text: str) -> Decoder:
    """Parses the decoder of a config; raises `UserError` for one that is not lossless."""
    decoder = parse_decoder(text)
    if not decoder.lossless:
        fitting = ", ".join(name for name, preset in PRESETS.items() if preset.lossless and not any(preset.heads))
        raise UserError(
            f"The decoder {text} does not draw what the model would; to train on, choose a lossless one: {fitting}."
        )
    return decoder
