"""Defines the settings of a training for a published backbone, parsed from a config like configs/emu3.py."""

import dataclasses
from pathlib import Path
from typing import Any, Self

from ssd_jax.decode.base import Decoder
from ssd_jax.decode.names import parse_decoder
from ssd_jax.decode.presets import PRESETS
from ssd_jax.errors import UserError, require_one_of
from ssd_jax.models.config import BranchConfig, HeadsConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.recipes.section import Section
from ssd_jax.training.head_training import DraftHeadsSpec
from ssd_jax.training.spec import BranchSpec, PromptedSpec

STAGES = ("heads", "flash")
"""What can be trained beside a published backbone: draft heads, or a vertical branch."""


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
        stage: one of `STAGES`.
        weights, vq_weights: folders or names of the backbone's checkpoint, and of its image tokenizer's if separate.
        architecture: the architecture that the checkpoint must have.
        mesh: devices, such as "data:1,model:4"; None is one.
        pictures: source of the images.
        size: image size, as for `Pipeline.generate`; None is the model's own.
        data, pictures_per_file: the folder of their codes, and images per shard.
        max_batch: images that are generated or encoded at once.
        heldout: number of held-out images.
        workdir: folder of checkpoints, logs, the report and export/.
        seed: determines, with the step, the batches.
        window: positions per forward pass of the frozen backbone; 0 is all.
        report_images: the most held-out images on which the result is evaluated.
        heads: settings of the heads' training.
        vertical_branch, branch, flash: the vertical branch, and the two phases of its training; 0 steps skip the
            second.
    """

    stage: str
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
    seed: int
    window: int
    report_images: int
    heads: DraftHeadsSpec
    vertical_branch: BranchConfig
    branch: BranchSpec
    flash: BranchSpec

    @classmethod
    def parse(cls, config: Any) -> Self:
        """Parses a `ConfigDict`; raises `UserError` for every mistake that can be found before a file is opened."""
        given = Section(config)
        weights, images, prompts_file = (given.text(name) for name in ("weights", "images", "prompts_file"))
        stage = given.text("stage")
        require_one_of("stage", stage, STAGES)
        if not weights:
            raise UserError("No weights come with this config; say where they are with --config.weights=DIR.")
        if bool(images) == bool(prompts_file):
            raise UserError(
                "Training needs images: give either --config.images=DIR, a folder of images with captions, "
                "or --config.prompts_file=FILE, and the model draws them."
            )
        seed, window = given.whole("seed", 0, 2**32 - 1), given.whole("window", 0)
        report_images = given.whole("report_images", 1)
        heads = DraftHeadsSpec(
            from_dict(HeadsConfig, given.part("heads_model"), "config.heads_model"),
            smooth_l1=PromptedSpec.parse(given.part("heads"), "heads"),
            overlap=PromptedSpec.parse(given.part("overlap"), "overlap", least_steps=0),
            seed=seed,
            window=window,
            report_images=report_images,
        )
        each, decoder = given.whole("pictures_per_prompt", 1), given.text("decoder")
        return cls(
            stage=stage,
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
            seed=seed,
            window=window,
            report_images=report_images,
            heads=heads,
            vertical_branch=from_dict(BranchConfig, given.part("vertical_branch"), "config.vertical_branch"),
            branch=BranchSpec.parse(given.part("branch"), "branch"),
            flash=BranchSpec.parse(given.part("flash"), "flash", least_steps=0),
        )

    @property
    def phases(self) -> dict[str, PromptedSpec]:
        """The phases of its stage by their sections' names, in order; those without steps are skipped."""
        found = {"heads": self.heads.smooth_l1, "overlap": self.heads.overlap}
        if self.stage == "flash":
            found = {"branch": self.branch, "flash": self.flash}
        return {name: phase for name, phase in found.items() if phase.steps}

    @property
    def export(self) -> Path:
        """The folder of the final heads or of the branch."""
        return self.workdir / "export"

    @property
    def flash_export(self) -> Path:
        """The folder of a backbone that was trained with its branch."""
        return self.workdir / "flash-export"

    @property
    def report(self) -> Path:
        """The file of the evaluation."""
        return self.workdir / ("report.md" if self.stage == "heads" else "flash-report.md")


def lossless(text: str) -> Decoder:
    """Parses the decoder of a config; raises `UserError` for one that is not lossless."""
    decoder = parse_decoder(text)
    if not decoder.lossless:
        fitting = ", ".join(name for name, preset in PRESETS.items() if preset.lossless and not any(preset.heads))
        raise UserError(
            f"The decoder {text} does not draw what the model would; to train on, choose a lossless one: {fitting}."
        )
    return decoder
