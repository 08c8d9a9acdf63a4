"""Everything needed to train the models: data, losses and loops."""
