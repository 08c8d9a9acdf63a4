"""Measures decoders against plain autoregressive decoding, in one process: python -m ssd_jax.bench --help"""
