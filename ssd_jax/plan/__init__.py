"""What a decode needs and how fast it can be, from shapes alone: no weights, no accelerator."""
