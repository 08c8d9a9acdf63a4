"""Reads, checks and writes checkpoint folders: config.json and safetensors files, no pickles."""
