"""Checkpoint folders: config.json and safetensors files, read, checked and written; no pickle."""
