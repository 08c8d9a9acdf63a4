"""What `--config` names: sizes come from `backbones`, settings of trainings stand here."""
