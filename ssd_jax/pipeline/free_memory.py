"""Checks whether a model or a batch of images fits in memory, before allocating it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ssd_jax.errors import UserError
from ssd_jax.parallel.mesh import device_bytes

MODEL = "The model does not fit in memory: it needs"


def require_room(arrays: Mapping[str, Any], mesh: Mesh | None = None, said: str = MODEL) -> None:
    """Raises `UserError` if arrays will not fit.

    Args:
        arrays: description -> pytree of shapes, with shardings where they are sharded.
        mesh: the devices over which they are sharded; None is one. CPU devices share their memory.
        said: beginning of the error message.
    """
    parts = len(mesh.local_devices) if mesh is not None and jax.default_backend() == "cpu" else 1
    needed = {name: parts * device_bytes(tree) for name, tree in arrays.items() if tree is not None}
    free = free_bytes()
    if free is None or sum(needed.values()) <= free:
        return
    listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in needed.items() if size)
    raise UserError(f"{said} {gigabytes(sum(needed.values()))} ({listed}), and {gigabytes(free)} are free.")


def free_bytes() -> int | None:
    """Free bytes for arrays on the default device; None where unknown."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None
    return free_host_bytes()


def free_host_bytes() -> int | None:
    """Memory that processes may still take beside the accelerators'; None where nothing tells."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    return free if (limit := _container_bytes()) is None else min(free, limit)


def _container_bytes() -> int | None:
    """Free bytes under a container's limit (cgroup v2), droppable file pages included; None outside a container."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        stats = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        dropped = sum(int(stats.get(kind, 0)) for kind in ("inactive_file", "active_file"))  # pages of files
        return max(limit - used + dropped, 0)
    except (OSError, ValueError):  # no such files, or "max"
        return None


def gigabytes(size: int) -> str:
    """A number of bytes for a message."""
    return f"{size / 1e9:.2f} GB"
