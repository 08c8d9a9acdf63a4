"""Pure-functional Flax (linen) modules: the transformer, the draft heads, the VQ tokenizer."""
