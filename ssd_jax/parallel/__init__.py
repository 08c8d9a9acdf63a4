"""Parallelism: meshes of devices, several processes, sharded training states."""
