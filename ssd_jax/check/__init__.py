"""Whether a checkpoint folder does here what it does in transformers, for those who own the weights."""
