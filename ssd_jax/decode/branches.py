"""The branches of the tree loop: the candidates of its first positions, in what order they are tried, and which follow.

A tree has levels, one for each of the first positions after the newest token. Every level has as many candidates: the
window's draft, which is number 0, and its siblings. A *path* names a candidate of every level; paths of drafts alone
run through the window, the others through inputs beside it.

Source: SJD-PAC, arXiv 2603.18599; trying candidates that were drawn without replacement one after the other, each
against what the earlier ones left of p, is recursive rejection sampling (SpecInfer, arXiv 2305.09781).
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from ssd_jax.decode.acceptance import token_chance
from ssd_jax.decode.verifier import Beside, Verifier
from ssd_jax.sampling import threefry
from ssd_jax.sampling.choice import NONE, best_others, choose, without
from ssd_jax.sampling.distribution import residual
from ssd_jax.sampling.noise import Tag, fresh_keys, gumbel, uniform


class Nodes(NamedTuple):
    """The E nodes of a tree that are beside the window, in order of their paths.

    Attributes:
        level: the level of each, from 0.
        candidate: its number among the candidates of its level.
        shared: number of window drafts at the beginning of its path.
        sees: whether a node (first axis) sees another: itself and those that its path goes through.
        of_path: for every level the node of every path up to it, numbered in base `candidates`; -1 for the window's.
    """

    level: Int32[np.ndarray, " E"]
    candidate: Int32[np.ndarray, " E"]
    shared: Int32[np.ndarray, " E"]
    sees: Bool[np.ndarray, "E E"]
    of_path: tuple[Int32[np.ndarray, " paths"], ...]


def count(candidates: int, levels: int) -> int:
    """E, the number of nodes beside the window."""
    return sum(candidates**level for level in range(1, levels + 1)) - levels


@functools.cache
def nodes(candidates: int, levels: int) -> Nodes:
    """The nodes of a tree with this many candidates on every level."""
    by_level = [list(itertools.product(range(candidates), repeat=level + 1)) for level in range(levels)]
    paths = [path for level in by_level for path in level if any(path)]
    number = {path: index for index, path in enumerate(paths)}
    return Nodes(
        level=np.array([len(path) - 1 for path in paths], np.int32),
        candidate=np.array([path[-1] for path in paths], np.int32),
        shared=np.array([next(i for i, which in enumerate(path) if which) for path in paths], np.int32),
        sees=np.array([[path[: len(other)] == other for other in paths] for path in paths]),
        of_path=tuple(np.array([number.get(path, -1) for path in level], np.int32) for level in by_level),
    )


def beside(tree: Nodes, candidates: Int32[Array, "B levels candidates"], first: Int32[Array, " B"]) -> Beside:
    """The nodes as inputs of a pass; for a candidate that does not exist, code 0 is fed and ignored.

    Args:
        tree: the nodes.
        candidates: the codes.
        first: the position of level 0.
    """
    codes = jnp.maximum(candidates[:, tree.level, tree.candidate], 0)
    return Beside(codes, first[:, None] + tree.level[None], first[:, None] + tree.shared[None], tree.sees)


class Walk(NamedTuple):
    """What a tree gives.

    Attributes:
        tokens: from level 0 to the position after the last level; only the first of them are final.
        final: how many are.
        through: whether every draft of the window was accepted, so that the window's own chain goes on.
        log_p: at the same positions, after the accepted path, which drafts extend where it ends.
    """

    tokens: Int32[Array, "B front"]
    final: Int32[Array, " B"]
    through: Bool[Array, " B"]
    log_p: Float32[Array, "B front V"]


def walk(
    verifier: Verifier,
    tree: Nodes,
    candidates: Int32[Array, "B levels candidates"],
    chain: Float32[Array, "B front V"],
    beside: Float32[Array, "B E V"],
    log_q: Float32[Array, "B levels V"],
    positions: Int32[Array, "B front"],
    pass_index: Int32[Array, " B"],
    cols: int,
) -> Walk:
    """Follows the accepted candidates from level to level; where none is, the token is drawn from what is left of p.

    Args:
        verifier: for its noise. The uniform numbers of drafts are those of `acceptance.accept_window`.
        tree: the nodes.
        candidates: the codes that were fed.
        chain: log p of the levels' positions, and of the one after them, in the window.
        beside: log p of what follows each node.
        log_q: from which the drafts were drawn; siblings were drawn from it without the earlier candidates.
        positions: of the levels, and the one after them.
        pass_index: index of this pass for each image.
        cols: C.
    """
    B, levels, number = candidates.shape
    keys, V = verifier.keys(positions), chain.shape[-1]
    front = keys[:, :levels]
    u = threefry.unit(threefry.bits(fresh_keys(front, Tag.BRANCH, pass_index), number))
    u = u.at[:, :, 0].set(uniform(fresh_keys(front, Tag.ACCEPT, pass_index)))
    noise = gumbel(fresh_keys(front, Tag.RESIDUAL, pass_index), V)
    path, count, going = jnp.zeros(B, jnp.int32), jnp.zeros(B, jnp.int32), jnp.ones(B, bool)
    tokens, laws = [], [chain[:, 0]]
    for level in range(levels):
        token, which = _try(candidates[:, level], laws[level], log_q[:, level], u[:, level], noise[:, level])
        tokens.append(token)
        count += going.astype(jnp.int32)
        going &= which >= 0
        path = path * number + jnp.where(going, which, 0)
        laws.append(_following(tree, level, path, chain[:, level + 1], beside))
        if verifier.row_ends:  # no row end was fed after a node, so nothing is known of what follows it
            going &= (path == 0) | (positions[:, level] % cols != cols - 1)
    drawn = gumbel(fresh_keys(keys[:, levels:], Tag.RESAMPLE, pass_index), V)[:, 0]
    tokens.append(choose(laws[levels], drawn))
    through = going & (path == 0)
    return Walk(
        jnp.stack(tokens, axis=1), count + (going & ~through).astype(jnp.int32), through, jnp.stack(laws, axis=1)
    )


def siblings(
    verifier: Verifier,
    drafts: Int32[Array, "B levels"],
    log_q: Float32[Array, "B levels V"],
    positions: Int32[Array, "B levels"],
    pass_index: Int32[Array, " B"],
    count: int,
) -> Int32[Array, "B levels {count}"]:
    """Draws of q without the draft, and without each other; `NONE` where q has no more codes."""
    keys = fresh_keys(verifier.keys(positions), Tag.SIBLING, pass_index)
    return best_others(log_q + gumbel(keys, log_q.shape[-1]), drafts, count)


def _following(
    tree: Nodes, level: int, path: Int32[Array, " B"], chain: Float32[Array, "B V"], beside: Float32[Array, "B E V"]
) -> Float32[Array, "B V"]:
    """log p after a path up to `level`; `chain` is that after the window's."""
    node = jnp.asarray(tree.of_path[level])[path]
    found = jnp.take_along_axis(beside, jnp.maximum(node, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where((node < 0)[:, None], chain, found)


def _try(
    candidates: Int32[Array, "B candidates"],
    log_p: Float32[Array, "B V"],
    log_q: Float32[Array, "B V"],
    u: Float32[Array, "B candidates"],
    noise: Float32[Array, "B V"],
) -> tuple[Int32[Array, " B"], Int32[Array, " B"]]:
    """Tries the candidates of a level in turn.

    Args:
        candidates: the codes.
        log_p, log_q: p, and the q of the first.
        u: a uniform number for each.
        noise: Gumbel noise, for the draw if all are rejected.
    Returns:
        the token, and which candidate it is, `NONE` if it was drawn.
    """
    which = jnp.full(log_p.shape[0], NONE, jnp.int32)
    for number in range(candidates.shape[1]):
        code = candidates[:, number]
        chance = token_chance(jnp.maximum(code, 0)[:, None], log_p[:, None], log_q[:, None])[:, 0]
        which = jnp.where((which < 0) & (code >= 0) & (u[:, number] < chance), number, which)
        there = (code >= 0)[:, None]
        log_p = jnp.where(there, jax.nn.log_softmax(residual(log_p, log_q), axis=-1), log_p)
        log_q = jnp.where(there, jax.nn.log_softmax(without(log_q, code), axis=-1), log_q)
    token = jnp.take_along_axis(candidates, jnp.maximum(which, 0)[:, None], axis=1)[:, 0]
    return jnp.where(which < 0, choose(log_p, noise), token), which
