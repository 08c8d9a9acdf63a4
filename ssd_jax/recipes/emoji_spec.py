"""Defines the settings of the bundled model's training, parsed once from a config like configs/emoji.py."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ssd_jax.data.emoji import SIZE
from ssd_jax.data.emoji_sources import STYLES
from ssd_jax.errors import UserError, require_one_of
from ssd_jax.models.branch import require_fits
from ssd_jax.models.config import BranchConfig, HeadsConfig, ModelConfig, VQConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.prompts import SPECIALS
from ssd_jax.recipes.section import Section
from ssd_jax.training.head_training import DraftHeadsSpec
from ssd_jax.training.spec import (
    BackboneSpec,
    CaptionedBranchSpec,
    CaptionedSpec,
    ContinuedSpec,
    StageSpec,
    TokenizerSpec,
)

STAGES = ("tokenizer", "backbone", "heads")
"""The stages of a complete training, in order; the stage `FLASH` goes on from its backbone."""

FLASH = "flash"


@dataclasses.dataclass(frozen=True)
class EmojiSpec:
    """Settings of a complete training.

    Attributes:
        stages: the stages to run.
        seed: determines, with the step, the batches.
        workdir: folder of checkpoints, logs and images; the final model is in its folder export/.
        data, styles, limit: the folder of images, their styles, and the number of emoji to build (0 is all).
        vq: the image tokenizer.
        model: fields of the backbone's `ModelConfig` that do not depend on the captions' vocabulary.
        tokenizer, heads: settings of these stages.
        backbone, continued: settings of the first phase of the backbone's stage, and of those that continue it.
        branch_model, branch, flash: the vertical branch, and settings of the two phases of its training.
        report_drawn: number of images of trained captions, and of held-out combinations, for the recognition report.
        sample_prompts: prompts of the samples that are generated while the backbone trains.
    """

    stages: tuple[str, ...]
    seed: int
    workdir: Path
    data: Path
    styles: tuple[str, ...]
    limit: int
    vq: VQConfig
    model: Mapping[str, Any]
    tokenizer: TokenizerSpec
    backbone: BackboneSpec
    continued: ContinuedSpec
    heads: DraftHeadsSpec
    branch_model: BranchConfig
    branch: CaptionedBranchSpec
    flash: CaptionedBranchSpec
    report_drawn: int
    sample_prompts: tuple[str, ...]

    @classmethod
    def parse(cls, config: Any) -> Self:
        """Parses a `ConfigDict`; raises `UserError` for every mistake that can be found before a stage begins."""
        given = Section(config)
        stage, styles = given.text("stage"), given.texts("styles")
        require_one_of("stage", stage, ("all", *STAGES, FLASH))
        for style in styles:
            require_one_of("style", style, tuple(STYLES))
        seed, vq = given.whole("seed", 0, 2**32 - 1), from_dict(VQConfig, given.part("vq"), "config.vq")
        if SIZE % vq.stride:
            raise UserError(f"config.vq: images of {SIZE} pixels have no whole number of codes of {vq.stride} pixels.")
        heads = DraftHeadsSpec(
            from_dict(HeadsConfig, given.part("heads_model"), "config.heads_model"),
            smooth_l1=CaptionedSpec.parse(given.part("heads"), "heads"),
            overlap=CaptionedSpec.parse(given.part("overlap"), "overlap", least_steps=0),
            seed=seed,
            window=0,
            report_images=given.whole("report_images", 1),
        )
        spec = cls(
            stages=STAGES if stage == "all" else (stage,),
            seed=seed,
            workdir=Path(given.text("workdir")),
            data=Path(given.text("data")),
            styles=styles,
            limit=given.whole("limit", 0),
            vq=vq,
            model=given.part("model"),
            tokenizer=TokenizerSpec.parse(given.part("tokenizer"), "tokenizer"),
            backbone=BackboneSpec.parse(given.part("backbone"), "backbone"),
            continued=ContinuedSpec.parse(given.part("continued"), "continued"),
            heads=heads,
            branch_model=from_dict(BranchConfig, given.part("branch_model"), "config.branch_model"),
            branch=CaptionedBranchSpec.parse(given.part("branch"), "branch"),
            flash=CaptionedBranchSpec.parse(given.part("flash"), "flash"),
            report_drawn=given.whole("report_drawn", 1),
            sample_prompts=given.texts("sample_prompts"),
        )
        backbone = spec.backbone_config(len(SPECIALS) + 1)
        if FLASH in spec.stages:
            require_fits(backbone, spec.branch_model, "config.branch_model: ")
        return spec

    @property
    def flash_export(self) -> Path:
        """The folder of the backbone that is trained with a vertical branch."""
        return self.workdir / "flash-export"

    @property
    def export(self) -> Path:
        """The folder of the final model."""
        return self.workdir / "export"

    def backbone_config(self, words: int) -> ModelConfig:
        """The backbone's config for a vocabulary of this many words and special tokens; raises `UserError` for invalid
        sizes."""
        codes = self.vq.codebook_size
        values = dict(self.model, vocab_size=words + codes, visual_offset=words, visual_size=codes)
        values |= {f"{name.strip('<>')}_id": index for index, name in enumerate(SPECIALS)}
        values |= dict.fromkeys(("rows", "cols"), SIZE // self.vq.stride)
        return from_dict(ModelConfig, values, "config.model")

    @property
    def continuations(self) -> tuple[str, ...]:
        """Folder names of the phases that continue the backbone's first, in order."""
        return tuple(f"continued-{number}" for number in range(1, self.continued.repeats + 1))

    @property
    def parts(self) -> dict[str, StageSpec]:
        """Folder name -> settings of every stage and phase, in order."""
        backbone = {"backbone": self.backbone, **dict.fromkeys(self.continuations, self.continued)}
        return {"tokenizer": self.tokenizer, **backbone, "heads": self.heads.smooth_l1, "overlap": self.heads.overlap}
