"""Plans a decode from shapes alone: memory and a lower bound of the time, without weights or accelerator."""
