"""Recipes: complete trainings, from a config to the files that users load."""
