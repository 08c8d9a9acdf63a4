"""The command lines: sample, train and bench."""
