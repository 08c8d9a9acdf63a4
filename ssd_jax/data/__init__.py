"""Data sets of images with captions, as pixels or as codes, for training and evaluation."""
