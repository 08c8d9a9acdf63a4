"""Sequence geometry: token positions, attention masks and the key/value cache."""
