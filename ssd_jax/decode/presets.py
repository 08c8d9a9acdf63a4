"""Decoders by name."""

from ssd_jax.decode.ar import AR
from ssd_jax.errors import UserError

PRESETS = {"ar": AR()}
"""Name to decoder. A decoder is a frozen dataclass, so it can be a static argument of the jitted program."""

Decoder = AR


def find_decoder(decoder: str | Decoder) -> Decoder:
    """The decoder of a name, or the decoder itself; raises `UserError` that lists the names."""
    if not isinstance(decoder, str):
        return decoder
    if decoder not in PRESETS:
        raise UserError(f"Unknown decoder {decoder!r}; choose one of {', '.join(PRESETS)}.")
    return PRESETS[decoder]
