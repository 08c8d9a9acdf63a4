"""Parses the bench's decoders: "ssd", or "ssd@published" with other draft heads or another model."""

from collections.abc import Mapping, Sequence

from ssd_jax.decode.base import Decoder
from ssd_jax.decode.names import parse_decoder, split_names
from ssd_jax.errors import UserError

MARK = "@"


def parse_labels(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """Label -> folder, from texts "LABEL=DIR" of a flag; raises `UserError` for any other text."""
    found = dict(text.split("=", 1) if "=" in text else (text, "") for text in texts)
    for label, folder in found.items():
        if not label.isidentifier() or not folder:
            raise UserError(f"{flag} must be LABEL=DIR, for example published=runs/published/export: {label!r}.")
    return found


def parse_painters(text: str, labels: Mapping[str, str]) -> dict[str, tuple[Decoder, str | None]]:
    """Name as written -> decoder and the label of its draft heads or model, None for the checkpoint's own.

    Raises:
        UserError: an unknown decoder, or a label that no flag names.
    """
    found: dict[str, tuple[Decoder, str | None]] = {}
    for name in split_names(text):
        decoder, mark, label = name.partition(MARK)
        if mark and label not in labels:
            raise UserError(f"{name!r} asks for {label!r}, which neither --other_heads nor --other_models names.")
        found[name] = parse_decoder(decoder), label or None
    return found
