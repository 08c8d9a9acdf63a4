"""One optimizer step: the state that training carries, the learning-rate schedule, the jitted update."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""(params, batch, key) -> (loss, metrics); every metric a scalar."""


@flax.struct.dataclass
class TrainState:
    """What a stage carries from step to step, and all that a checkpoint holds.

    Attributes:
        step: int32 scalar, updates made so far.
        params: pytree of float32 arrays.
        opt_state: the optimizer's own state.
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


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Clipped AdamW on the schedule of a stage's config (`lr`, `steps`, `warmup`, `decay`, `clip`, `weight_decay`)."""
    rate = schedule(config.lr, config.steps, config.warmup, config.decay)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        # Vectors (norm scales, biases) are not decayed.
        optax.adamw(
            rate,
            b1=0.9,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
    )


def make_step(loss: Loss, optimizer: optax.GradientTransformation, seed: int) -> Callable:
    """Returns the jitted `(state, batch) -> (state, metrics)`; the state is donated.

    The key of a step depends on `seed` and the step's number alone, so a resumed run draws what it would have drawn.
    """

    @jax.jit(donate_argnums=0)
    def update(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "grad_norm": optax.global_norm(grads), **metrics}
        return TrainState(state.step + 1, params, opt_state), metrics

    return update


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state at step 0."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
