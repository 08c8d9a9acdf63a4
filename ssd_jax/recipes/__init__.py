"""Whole trainings, from a config's values to the files that users load."""
