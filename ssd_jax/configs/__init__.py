"""The configs that `--config` selects: sizes come from `backbones`, training settings are defined here."""
