"""Decoders: loops that fill an image's token grid with the help of a verifier; none depends on a model."""
