"""Defines the settings of the training stages: frozen, checked values, parsed once from the sections of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from ssd_jax.data.batches import Dropped
from ssd_jax.errors import UserError, require_number, require_one_of, require_whole, shown
from ssd_jax.models.matmul import PRODUCTS


def _whole(least: int, **default: Any) -> Any:
    """A field for whole numbers of at least `least`."""
    return dataclasses.field(metadata={"least": least}, **default)


def _number(bounds: str, **default: Any) -> Any:
    """A field for numbers; `bounds` is a name of `BOUNDS`."""
    return dataclasses.field(metadata={"bounds": bounds}, **default)


BOUNDS = {
    "share": (lambda value: 0 <= value <= 1, "lie between 0 and 1"),
    "memory": (lambda value: 0 <= value < 1, "lie between 0 and 1"),  # decay of a running mean: 1 would never learn
    "positive": (lambda value: value > 0, "be above 0"),
    "not negative": (lambda value: value >= 0, "be at least 0"),
}
"""Name of a bound -> its check, and its wording in messages."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Settings of every stage.

    Attributes:
        steps, batch: number of updates, and images per update.
        lr, warmup, decay: peak learning rate, warm-up steps, and the share of all steps that decays to zero.
        clip, weight_decay, b2: largest gradient norm; the optimizer's weight decay and decay of squared gradients.
        save_every, log_every: steps between checkpoints, and between lines of the log.
        eval_images: held-out images that are evaluated at every checkpoint.
    """

    steps: int = _whole(1)
    batch: int = _whole(1)
    lr: float = _number("positive")
    warmup: int = _whole(0)
    decay: float = _number("share")
    clip: float = _number("positive")
    weight_decay: float = _number("not negative")
    b2: float = _number("memory")
    save_every: int = _whole(1)
    log_every: int = _whole(1)
    eval_images: int = _whole(1)

    @classmethod
    def parse(cls, section: Mapping[str, Any], name: str, least_steps: int = 1) -> Self:
        """Parses a section of a config; raises a `UserError` that names the setting for an invalid one.

        Args:
            section: setting -> value; all without a default are required.
            name: the section's name in messages.
            least_steps: 0 for a stage that may be skipped.
        """
        fields, values = {field.name: field for field in dataclasses.fields(cls)}, {}
        for key in section:
            if key not in fields:
                raise UserError(f"config.{name} has no setting {shown(key)}; valid are {', '.join(fields)}.")
        for key, field in fields.items():
            if key in section:
                least = {"least": least_steps} if key == "steps" else {}
                values[key] = _checked(f"config.{name}.{key}", section[key], {**field.metadata, **least})
            elif field.default is dataclasses.MISSING:
                raise UserError(f"config.{name}.{key} is missing.")
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSpec(StageSpec):
    """Settings of the image tokenizer's stage.

    Attributes:
        continuous_steps: steps before the latents are quantised.
        gradient_weight: weight of the edge loss relative to the pixel loss.
    """

    continuous_steps: int = _whole(0)
    gradient_weight: float = _number("not negative")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptedSpec(StageSpec):
    """Settings of stages on images with prompts.

    Attributes:
        caption_drop: see `data.batches.Dropped.prompt`.
        accumulation: number of micro-batches per batch.
        matmul: one of `PRODUCTS`, for the products of the training steps.
    """

    caption_drop: float = _number("share")
    accumulation: int = _whole(1, default=1)
    matmul: str = "float32"

    @classmethod
    def parse(cls, section: Mapping[str, Any], name: str, least_steps: int = 1) -> Self:
        """See `StageSpec.parse`."""
        spec = super().parse(section, name, least_steps)
        if spec.batch % spec.accumulation:
            raise UserError(
                f"config.{name}.batch ({spec.batch}) must be a multiple of its accumulation ({spec.accumulation})."
            )
        return spec

    @property
    def micro_batch(self) -> int:
        """Images per micro-batch."""
        return self.batch // self.accumulation

    @property
    def dropped(self) -> Dropped:
        """The shares of the prompts' content that the stage drops."""
        return Dropped(self.caption_drop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionedSpec(PromptedSpec):
    """Settings of stages on emoji; the shares are those of `data.batches.Dropped`."""

    style_drop: float = _number("share")
    word_drop: float = _number("share")

    @property
    def dropped(self) -> Dropped:
        """The shares of the prompts' content that the stage drops."""
        return Dropped(self.caption_drop, self.style_drop, self.word_drop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisySpec(PromptedSpec):
    """Settings of stages in which images are seen with wrong codes; see `training.backbone.corrupt`.

    Attributes:
        code_noise: largest share of wrong codes in an image.
        code_blind: share of images with even fewer true codes.
        code_noise_from: first step with wrong codes.
    """

    code_noise: float = _number("share")
    code_blind: float = _number("share")
    code_noise_from: int = _whole(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSpec(NoisySpec, CaptionedSpec):
    """Settings of the first phase of the backbone's stage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuedSpec(BackboneSpec):
    """Settings of its later phases. Each goes on from the weights of the one before, with a new optimizer and the next
    seed.

    Attributes:
        repeats: number of these phases.
    """

    repeats: int = _whole(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchSpec(NoisySpec):
    """Settings of the two phases of the stage "flash"; see `training.branch`.

    Attributes:
        vertical: weight of the branch's own loss.
        distillation: weight of the distillation from the backbone.
        temperature: that of the distillation.
        backbone_rate: the backbone's learning rate, as a share of the branch's; in the first phase it is frozen.
    """

    vertical: float = _number("not negative")
    distillation: float = _number("not negative")
    temperature: float = _number("positive")
    backbone_rate: float = _number("share")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionedBranchSpec(BranchSpec, CaptionedSpec):
    """The same on emoji."""


def _checked(name: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    if "least" in metadata:
        return require_whole(name, value, metadata["least"])
    if "bounds" in metadata:
        require_number(name, value)
        fits, wanted = BOUNDS[metadata["bounds"]]
        if not fits(value):
            raise UserError(f"{name} must {wanted}, not {value}.")
        return float(value)
    require_one_of(name, value, tuple(PRODUCTS))
    return value
