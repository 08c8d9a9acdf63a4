"""Decoders: loops that fill a picture's token grid by asking the verifier. They receive a verifier, never a model."""
