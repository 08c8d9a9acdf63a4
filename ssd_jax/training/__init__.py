"""Training: specs, losses, the training loop, and one file per stage."""
