"""Decoders: loops that fill a picture's token grid by asking the verifier. They receive functions, never a model."""
