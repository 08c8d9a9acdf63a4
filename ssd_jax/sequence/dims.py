"""The dimension letters, once. Every einsum and every shape comment in this package uses them.

B  batch rows (the classifier-free-guidance rows included; "images" when they are not)
S  prompt tokens            T  cache length             W  window: positions per verifier pass
D  model width              F  mlp width                V  visual vocabulary (codebook size)
N  query heads              K  key/value heads          H  head width
L  layers                   R  grid rows                C  grid columns

In signatures `*batch` is any number of leading axes (`*#batch`: ones that broadcast to these), `...` any axes, and the
meaning of a letter that is not here is in the docstring.
"""

PROMPT_BUCKET = 16
"""Prompts are padded on the left to a multiple of this many tokens, so that a new prompt compiles nothing."""


def bucket(length: int, multiple: int = PROMPT_BUCKET) -> int:
    """Smallest multiple of `multiple` that holds `length` (at least one)."""
    return max(1, -(-length // multiple)) * multiple
