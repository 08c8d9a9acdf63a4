"""Builds the jitted optimizer step, with its training state, optimizer and learning-rate schedule."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ssd_jax.training.spec import StageSpec

Loss = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""(params, frozen parameters, batch, key) -> (loss, metrics); every metric a scalar."""


@flax.struct.dataclass
class TrainState:
    """The state of a stage between steps, and the contents of a checkpoint.

    Attributes:
        step: int32 scalar, number of updates so far.
        params: pytree of float32 arrays.
        opt_state: the optimizer's state.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def schedule(peak: float, steps: int, warmup: int, decay: float) -> optax.Schedule:
    """Warm-up, constant, linear decay to zero over the last `decay` share of `steps` (arXiv 2404.06395, "WSD")."""
    decay_steps = int(steps * decay)
    parts = [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)]
    parts.append(optax.linear_schedule(peak, 0.0, decay_steps))
    return optax.join_schedules(parts, [warmup, steps - decay_steps])


def make_optimizer(
    spec: StageSpec, matrices: Callable[[Any], Any] | None = None, rates: Callable[[Any], Any] | None = None
) -> optax.GradientTransformation:
    """Clipped AdamW, or Muon for the matrices and AdamW for the rest, with the schedule of a stage.

    Args:
        spec: learning rate, steps, warm-up, decay, clip, weight decay and b2.
        matrices: params -> a pytree of `optax.contrib.MuonDimensionNumbers`, None for parameters of AdamW. Muon's
            updates are scaled to AdamW's usual size (arXiv 2502.16982, equation 4), so one learning rate serves both.
        rates: params -> a pytree of their learning rates, as shares of the schedule's; None: all have that one.
    """
    rate = schedule(spec.lr, spec.steps, spec.warmup, spec.decay)

    def decayed(params: Any) -> Any:
        """Not norm scales and biases, of which a norm of attention heads has a matrix."""
        vectors = ("scale", "bias")
        return jax.tree.map_with_path(lambda path, p: p.ndim > 1 and _name(path) not in vectors, params)

    if matrices is None:
        rule = optax.adamw(rate, b2=spec.b2, weight_decay=spec.weight_decay, mask=decayed)
    else:
        rule = optax.contrib.muon(
            rate,
            weight_decay=spec.weight_decay,
            weight_decay_mask=decayed,
            adam_b2=spec.b2,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=matrices,
        )
    rules = [optax.clip_by_global_norm(spec.clip), rule]
    if rates is not None:
        rules.append(optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, rates(params))))
    return optax.chain(*rules)


def _name(path: tuple) -> Any:
    """The last key of a parameter's path."""
    return getattr(path[-1], "key", None) if path else None


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    seed: int,
    revise: Callable[[Any, Any, jax.Array], Any] | None = None,
    accumulation: int = 1,
    shardings: Any = None,
) -> Callable:
    """Returns the jitted `(state, frozen, batch) -> (state, metrics)`; the state is donated.

    The key of a step depends only on `seed` and the step's number, so a resumed run repeats the same draws.
    `revise` (params, batch, key) -> params changes parameters after the update by other means than the gradient. The
    batch is split into `accumulation` micro-batches of equal size, whose gradients are averaged. `shardings` are those
    of the new state, None on one device.
    """

    def gradient(params: Any, frozen: Any, batch: Any, key: jax.Array):
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, frozen, batch, key)
        return grads, {"loss": value, **metrics}

    def accumulated(params: Any, frozen: Any, batch: Any, key: jax.Array):
        # Every accumulation-th row, so that a micro-batch has rows of every device the batch is sharded over.
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(sums: Any, micro_batch: tuple[jax.Array, Any]):
            index, rows = micro_batch
            found = gradient(params, frozen, rows, jax.random.fold_in(key, index))
            return jax.tree.map(lambda a, b: a + b / accumulation, sums, found), None

        first = jax.tree.map(lambda x: x[0], parts)
        empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradient, params, frozen, first, key))
        return jax.lax.scan(add, empty, (jnp.arange(accumulation, dtype=jnp.int32), parts))[0]

    def update(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, metrics = (gradient if accumulation == 1 else accumulated)(state.params, frozen, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if revise is not None:
            params = revise(params, batch, key)
        metrics = {"loss": metrics["loss"], "grad_norm": optax.tree.norm(grads), **metrics}
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(update, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None))


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state at step 0."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
