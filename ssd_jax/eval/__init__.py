"""Evaluation of images: features, distances between sets of images, retrieval, likelihood under the verifier."""
