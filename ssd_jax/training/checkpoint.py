"""Saves and restores training states: a thin layer over orbax, so that a change of its API affects only this file."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ssd_jax.errors import UserError
from ssd_jax.files import FULL, megabytes, require_space
from ssd_jax.parallel.processes import together

FULL_SAID = [os.strerror(number) for number in FULL]
"""The same as text, because tensorstore's errors have no codes."""


class Checkpoints:
    """Numbered training states of one stage, written atomically.

    Args:
        folder: folder of the states; created if absent.
        keep: number of newest states to keep.
    """

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._folder = folder.resolve()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """Step of the newest complete state, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Writes a pytree of arrays under `step`; returns when it is on disk.

        Raises `UserError` if the disk is full; a training that is restarted with more space continues from the previous
        state.
        """
        what, size = f"The state of step {step}", sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        together(f"{what}: space", lambda: require_space(self._folder, size, what))  # one process checks for all
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state))
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:  # tensorstore's are ValueErrors
            full = next((reason for reason in FULL_SAID if reason in str(error)), None)
            if full is None:
                raise
            for partial in self._folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"{what} ({megabytes(size)}) cannot be written to {self._folder}: {full}.") from None

    def restore(self, step: int, like: Any) -> Any:
        """Reads the state of `step` with the structure, shapes, dtypes and shardings of `like`, however it was sharded
        when it was saved; leaves without a sharding go to one device."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def wanted(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here)

        abstract = jax.tree.map(wanted, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Frees orbax's resources."""
        self._manager.close()
