"""Training state on disk: a thin layer over orbax, so that a change of its API touches this file alone."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """Numbered training states of one stage; a state is there whole or not at all.

    Args:
        folder: where the states lie; made if absent.
        keep: how many of the newest states to keep.
    """

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """Step of the newest complete state, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Writes a pytree of arrays under `step`; returns when it is on disk."""
        self._manager.save(step, args=ocp.args.StandardSave(state))
        self._manager.wait_until_finished()

    def restore(self, step: int, like: Any) -> Any:
        """Reads the state of `step` into the structure, shapes, dtypes and shardings of `like`, wherever it was when
        it was saved; what has no sharding goes to one device."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def wanted(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here)

        abstract = jax.tree.map(wanted, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Frees what orbax holds."""
        self._manager.close()
