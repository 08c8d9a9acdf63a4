"""Measures how often an image's nearest neighbours show what its prompt asks for."""

from collections.abc import Sequence

import numpy as np

from ssd_jax.errors import UserError
from ssd_jax.eval.estimates import Estimate


def retrieval(
    queries: np.ndarray,
    wanted: Sequence[str],
    gallery: np.ndarray,
    identities: Sequence[str],
    at: Sequence[int] = (1, 5),
) -> dict[int, Estimate]:
    """R@k: how often one of the k gallery images nearest to a query (by cosine) has the identity it should have.

    Args:
        queries: features [Q, d]; wanted: the identity of each.
        gallery: features [N, d]; identities: the identity of each.
        at: the k's.
    Returns:
        k -> share, with Wilson's interval.
    """
    if not len(queries):
        raise UserError("Retrieval needs at least one query.")
    queries, gallery = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (queries, gallery))
    nearest = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, : max(at)]
    right = np.asarray(identities)[nearest] == np.asarray(wanted)[:, None]
    return {k: Estimate.share(int(right[:, :k].any(1).sum()), len(queries)) for k in at}
