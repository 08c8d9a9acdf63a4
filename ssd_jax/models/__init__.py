"""Flax (linen) modules without state: the transformer, the draft heads, the image tokenizers."""
