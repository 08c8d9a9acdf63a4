"""How models are trained: specs, losses, and the loop with one file per stage."""
