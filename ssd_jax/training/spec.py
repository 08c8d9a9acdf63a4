"""What the stages of a training are told: frozen values in their bounds, parsed once from the sections of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from ssd_jax.data.batches import Dropped
from ssd_jax.errors import UserError, require_number, require_one_of, require_whole, shown
from ssd_jax.models.matmul import PRODUCTS


def _whole(least: int, **default: Any) -> Any:
    """A field for whole numbers of at least so much."""
    return dataclasses.field(metadata={"least": least}, **default)


def _number(bounds: str, **default: Any) -> Any:
    """A field for numbers; `bounds` is a name of `BOUNDS`."""
    return dataclasses.field(metadata={"bounds": bounds}, **default)


BOUNDS = {
    "share": (lambda value: 0 <= value <= 1, "lie between 0 and 1"),
    "memory": (lambda value: 0 <= value < 1, "lie between 0 and 1"),  # of a running mean: 1 would never learn
    "positive": (lambda value: value > 0, "be above 0"),
    "not negative": (lambda value: value >= 0, "be at least 0"),
}
"""What a number may be -> whether it is, and what it must do, for the message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What every stage is told.

    Attributes:
        steps, batch: updates, and images for each.
        lr, warmup, decay: the schedule's peak, steps up to it, and the share of all steps that leads back to zero.
        clip, weight_decay, b2: the gradient's largest norm; the optimizer's decay of weights and of squared gradients.
        save_every, log_every: steps between checkpoints, and between lines of the log.
        eval_images: held-out images that are looked at, at every checkpoint.
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
        """From a section of a config; raises `UserError`, which names the setting, for one that no training can use.

        Args:
            section: setting -> value; all without a default are needed.
            name: of the section, for the message.
            least_steps: 0 for a stage that may be left out.
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
    """What the image tokenizer's stage is told.

    Attributes:
        continuous_steps: steps before the latents are rounded to codes.
        gradient_weight: of the errors of edges, beside those of pixels.
    """

    continuous_steps: int = _whole(0)
    gradient_weight: float = _number("not negative")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptedSpec(StageSpec):
    """What stages on images with prompts are told.

    Attributes:
        caption_drop: see `data.batches.Dropped.prompt`.
        accumulation: in how many parts a batch is gone through.
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
    def part(self) -> int:
        """Images that are gone through at once."""
        return self.batch // self.accumulation

    @property
    def dropped(self) -> Dropped:
        """What the stage does not tell."""
        return Dropped(self.caption_drop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionedSpec(PromptedSpec):
    """What stages on emoji are told; the shares are those of `data.batches.Dropped`."""

    style_drop: float = _number("share")
    word_drop: float = _number("share")

    @property
    def dropped(self) -> Dropped:
        """What the stage does not tell."""
        return Dropped(self.caption_drop, self.style_drop, self.word_drop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSpec(CaptionedSpec):
    """What the backbone's stage is told; see `training.backbone.corrupt`.

    Attributes:
        code_noise: the largest share of wrong codes that an image is shown with.
        code_blind: the share of images with still fewer true codes.
        code_noise_from: the step from which on there are any.
    """

    code_noise: float = _number("share")
    code_blind: float = _number("share")
    code_noise_from: int = _whole(0)


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
