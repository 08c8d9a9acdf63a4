"""Sampling: turns logits into distributions, and distributions and noise into codes."""
