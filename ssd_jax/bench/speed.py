"""How many passes and seconds decoders take: all of them interleaved, so that a drifting machine touches them alike."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from ssd_jax.decode.presets import Decoder
from ssd_jax.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Runs:
    """What one decoder did on J pictures, each drawn `repeats` times at batch 1.

    Attributes:
        tokens: int32 [J, R, C].
        passes: int32 [J], prefill included.
        seconds: float64 [repeats, J], compilation and VQ decoder excluded.
    """

    tokens: np.ndarray
    passes: np.ndarray
    seconds: np.ndarray

    @property
    def seconds_per_pass(self) -> float:
        """Median over all runs."""
        return float(np.median(self.seconds / self.passes))


def measure_speed(
    pipe: Pipeline, decoders: dict[str, Decoder], prompts: Sequence[str], seeds: int, repeats: int
) -> dict[str, Runs]:
    """Draws every (prompt, seed) with every decoder, `repeats` times, in turn."""
    jobs = [(text, seed) for text in prompts for seed in range(seeds)]
    outs: dict[str, list] = {name: [] for name in decoders}
    for name in tqdm(decoders, desc="compiling", unit="decoder", dynamic_ncols=True):
        for _ in range(2):  # the first run after compiling is not typical
            pipe.generate(prompts[:1], decoder=decoders[name])
    for text, seed in tqdm(jobs * repeats, desc="speed", unit="picture", dynamic_ncols=True):
        for name, decoder in decoders.items():
            outs[name].append(pipe.generate([text], decoder=decoder, seed=seed))
    return {name: _collect(found, len(jobs)) for name, found in outs.items()}


def agreement(tokens: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Share of equal tokens and share of equal pictures, of int32 [N, R, C] twice."""
    equal = (tokens == reference).reshape(len(tokens), -1)
    return float(equal.mean()), float(equal.all(axis=1).mean())


def _collect(outs: list, jobs: int) -> Runs:
    first = outs[:jobs]
    return Runs(
        tokens=np.concatenate([out.tokens for out in first]),
        passes=np.concatenate([out.passes for out in first]),
        seconds=np.array([out.seconds for out in outs]).reshape(-1, jobs),
    )
