"""What the training of the bundled model is told, parsed once from a config like configs/emoji.py."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ssd_jax.data.emoji import SIZE
from ssd_jax.data.emoji_sources import STYLES
from ssd_jax.errors import UserError, require_one_of
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.prompts import SPECIALS
from ssd_jax.recipes.section import Section
from ssd_jax.training.head_training import DraftHeadsSpec
from ssd_jax.training.spec import BackboneSpec, CaptionedSpec, StageSpec, TokenizerSpec

STAGES = ("tokenizer", "backbone", "heads")


@dataclasses.dataclass(frozen=True)
class EmojiSpec:
    """A whole training.

    Attributes:
        stages: of `STAGES`, which run.
        seed: decides batches together with the step.
        workdir: gets checkpoints, logs and images; the finished model goes to its folder export/.
        data, styles, limit: the folder of images, the styles in it, and how many emoji are drawn (0 is all).
        vq: the image tokenizer.
        model: fields of the backbone's `ModelConfig` that do not depend on the captions' vocabulary.
        tokenizer, backbone, heads: how the stages train.
        report_drawn: images of trained captions, and of held-out combinations, that must be recognised.
        sample_prompts: what is drawn while the backbone trains.
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
    heads: DraftHeadsSpec
    report_drawn: int
    sample_prompts: tuple[str, ...]

    @classmethod
    def parse(cls, config: Any) -> Self:
        """From a `ConfigDict`; raises `UserError` for whatever can be seen to be wrong before a stage begins."""
        given = Section(config)
        stage, styles = given.text("stage"), given.texts("styles")
        require_one_of("stage", stage, ("all", *STAGES))
        for style in styles:
            require_one_of("style", style, tuple(STYLES))
        seed, vq = given.whole("seed", 0, 2**32 - 1), from_dict(VQConfig, given.part("vq"), "config.vq")
        if SIZE % vq.stride:
            raise UserError(
                f"config.vq: pictures of {SIZE} pixels have no whole number of codes of {vq.stride} pixels."
            )
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
            heads=heads,
            report_drawn=given.whole("report_drawn", 1),
            sample_prompts=given.texts("sample_prompts"),
        )
        spec.backbone_config(len(SPECIALS) + 1)
        return spec

    @property
    def export(self) -> Path:
        """The folder of the finished model."""
        return self.workdir / "export"

    def backbone_config(self, words: int) -> ModelConfig:
        """The backbone for a vocabulary of so many words and special tokens; raises `UserError` for sizes that cannot
        be."""
        codes = self.vq.codebook_size
        values = dict(self.model, vocab_size=words + codes, visual_offset=words, visual_size=codes)
        values |= {f"{name.strip('<>')}_id": index for index, name in enumerate(SPECIALS)}
        values |= dict.fromkeys(("rows", "cols"), SIZE // self.vq.stride)
        return from_dict(ModelConfig, values, "config.model")

    @property
    def parts(self) -> dict[str, StageSpec]:
        """What is trained, in order, by the name of its folder; draft heads are trained in two parts."""
        heads = {"heads": self.heads.smooth_l1, "overlap": self.heads.overlap}
        return {"tokenizer": self.tokenizer, "backbone": self.backbone, **heads}
