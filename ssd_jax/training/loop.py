"""The training loop of all stages: resume, step, log, checkpoint, evaluate."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from ssd_jax.files import check_origin, replacing
from ssd_jax.parallel.processes import is_first, together
from ssd_jax.parallel.train_state import placed_like, spread, state_shardings
from ssd_jax.training.checkpoint import Checkpoints
from ssd_jax.training.metrics import MetricLog, draw_curve
from ssd_jax.training.spec import StageSpec
from ssd_jax.training.step import Loss, TrainState, init_state, make_optimizer, make_step


@dataclasses.dataclass(frozen=True)
class Task:
    """A stage of training, as the loop needs it.

    Attributes:
        name: of the stage, or of a phase of one, as "overlap"; the folder of its checkpoints and logs.
        init: key -> params; None if there is a `start`.
        loss: the loss function (see `step.Loss`).
        batch: step number -> batch of host arrays; a pure function of the step, so that resuming is exact.
        evaluate: params -> {"heldout": ..., ...}; called at every checkpoint and at the end.
        sample: params -> uint8 image [height, width, 3]; called at every checkpoint. None: no samples.
        matrices: which parameters Muon trains (see `step.make_optimizer`); None: AdamW trains all.
        revise: a change of the parameters after an update (see `step.make_step`).
        frozen: constant parameters that the loss needs. They are an argument of the compiled step: values that a
            function closes over become constants of its program, once per program.
        start: parameters to start from instead of `init`'s; they are copied, to float32.
        accumulation: number of micro-batches per batch.
        mesh: the devices over which batches and parameters are sharded; None is one device.
        placed: shapes and shardings of the parameters, a pytree of `jax.ShapeDtypeStruct`; None without a mesh.
        rates: learning rates of the parameters (see `step.make_optimizer`); None: one for all.
    """

    name: str
    init: Callable[[jax.Array], Any] | None
    loss: Loss
    batch: Callable[[int], Any]
    evaluate: Callable[[Any], dict[str, float]]
    sample: Callable[[Any], np.ndarray] | None = None
    matrices: Callable[[Any], Any] | None = None
    revise: Callable[[Any, Any, jax.Array], Any] | None = None
    frozen: Any = None
    start: Any = None
    accumulation: int = 1
    mesh: Mesh | None = None
    placed: Any = None
    rates: Callable[[Any], Any] | None = None


def fit(task: Task, spec: StageSpec, seed: int, workdir: Path, origin: dict[str, Any]) -> Any:
    """Trains a stage to `spec.steps` and returns its parameters.

    Starts from the newest checkpoint under `workdir/<name>`. A run killed at any moment and started again ends with the
    weights of an uninterrupted one: batches and keys depend only on (seed, step), and checkpoints are written
    atomically. `origin` (JSON) identifies the stage's inputs; a folder with states from other inputs is refused. Of
    several processes only the first writes logs and images.
    """
    folder = workdir / task.name
    together(f"{task.name}: origin", lambda: check_origin(folder / "origin.json", origin, "a training", "workdir"))
    optimizer = make_optimizer(spec, task.matrices, task.rates)

    def fresh(seed: jax.Array, start: Any) -> TrainState:
        params = task.init(jax.random.key(seed)) if start is None else jax.tree.map(copied, start)
        return init_state(params, optimizer)

    arguments = np.uint32(seed), task.start
    abstract = jax.eval_shape(fresh, *arguments)
    shardings = None if task.mesh is None else state_shardings(abstract, task.placed, task.mesh)
    checkpoints = Checkpoints(folder / "state")
    start = checkpoints.latest() or 0
    if start:
        state = checkpoints.restore(start, placed_like(abstract, shardings))
    else:
        state = jax.jit(fresh, out_shardings=shardings)(*arguments)
    first = is_first()
    log = MetricLog(folder / "metrics.jsonl", start) if first else None
    update = make_step(task.loss, optimizer, seed, task.revise, task.accumulation, shardings)
    sums: dict[str, float] = {}
    since, seconds = start, time.perf_counter()
    with tqdm(
        total=spec.steps, initial=start, desc=task.name, unit="step", dynamic_ncols=True, disable=not first
    ) as bar:
        for step in range(start, spec.steps):
            state, metrics = update(state, task.frozen, spread(task.batch(step), task.mesh))
            # Reading the metrics waits for the step, so that the rate below is correct.
            for key, value in jax.device_get(metrics).items():
                sums[key] = sums.get(key, 0.0) + float(value)
            done = step + 1
            bar.update()
            if done % spec.log_every == 0:
                now = time.perf_counter()
                rate = (done - since) * spec.batch / (now - seconds)
                values = {key: value / (done - since) for key, value in sums.items()}
                if first:
                    log.write(done, {**values, "images_per_second": rate})
                bar.set_postfix(loss=f"{values['loss']:.4f}", images_s=f"{rate:.1f}")
                sums, since, seconds = {}, done, now
            if done % spec.save_every == 0 or done == spec.steps:
                _look(task, state, log, folder, done)  # first, so that a checkpoint's outputs exist
                checkpoints.save(done, state)
                sums, since, seconds = {}, done, time.perf_counter()
    checkpoints.close()
    return state.params


def copied(x: jax.Array) -> jax.Array:
    """A copy in float32, in which parameters are trained."""
    return jnp.array(x, jnp.float32)


def _look(task: Task, state: TrainState, log: MetricLog | None, folder: Path, step: int) -> None:
    """Logs held-out metrics, and writes a sample image and the loss curve."""
    found = task.evaluate(state.params)
    if log is None:
        return
    log.write(step, found)
    if task.sample is not None:
        with replacing(folder / f"sample_{step:06d}.png") as temporary:
            Image.fromarray(task.sample(state.params)).save(temporary)
    draw_curve(log.path, folder / "loss.png", task.name)
