"""From logits to codes: distributions, noise, and the choice that noise makes."""
