"""What the training of the bundled model is told, parsed once from a config like configs/emoji.py."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ssd_jax.data.emoji import SIZE
from ssd_jax.data.emoji_sources import STYLES
from ssd_jax.errors import UserError, require_one_of, require_whole
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.prompts import SPECIALS
from ssd_jax.training.draft_heads import DraftHeadsSpec
from ssd_jax.training.spec import BackboneSpec, PromptedSpec, StageSpec, TokenizerSpec

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
        require_one_of("stage", config.stage, ("all", *STAGES))
        for name in ("report_images", "report_drawn"):
            require_whole(f"config.{name}", config[name], 1)
        require_whole("config.limit", config.limit, 0)
        for style in config.styles:
            require_one_of("style", style, tuple(STYLES))
        if config.seed < 0:
            raise UserError(f"config.seed must not be negative, but is {config.seed}.")
        vq = from_dict(VQConfig, config.vq.to_dict(), "config.vq")
        if SIZE % vq.stride:
            raise UserError(
                f"config.vq: pictures of {SIZE} pixels have no whole number of codes of {vq.stride} pixels."
            )

        def section(kind: type[StageSpec], name: str, least_steps: int = 1) -> Any:
            return kind.parse(config[name].to_dict(), name, least_steps)

        heads = DraftHeadsSpec(
            from_dict(HeadsConfig, config.heads_model.to_dict(), "config.heads_model"),
            smooth_l1=section(PromptedSpec, "heads"),
            overlap=section(PromptedSpec, "overlap", least_steps=0),
            seed=config.seed,
            window=0,
            report_images=config.report_images,
        )
        spec = cls(
            stages=STAGES if config.stage == "all" else (config.stage,),
            seed=config.seed,
            workdir=Path(config.workdir),
            data=Path(config.data),
            styles=tuple(config.styles),
            limit=config.limit,
            vq=vq,
            model=config.model.to_dict(),
            tokenizer=section(TokenizerSpec, "tokenizer"),
            backbone=section(BackboneSpec, "backbone"),
            heads=heads,
            report_drawn=config.report_drawn,
            sample_prompts=tuple(config.sample_prompts),
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
