"""Downloads checkpoints from the Hugging Face hub: only for an explicit `organisation/name`, or, at a branch, tag or
commit, `organisation/name@revision`; and only safe files."""

import re
from pathlib import Path

from ssd_jax.backbones import PUBLISHED
from ssd_jax.files import require_name
from ssd_jax.weights.store import WeightsError

FILES = ("*.json", "*.safetensors") + tuple(
    name for published in PUBLISHED.values() if published.tokenizer for name in published.tokenizer.names
)
"""Files to download: configurations, tokenizers and weights; no pickles and no code."""


def is_hub_id(source: str) -> bool:
    """Whether a text has the form `organisation/name` or `organisation/name@revision` and cannot be a path."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w./-]*)?", source) or ".." in source:
        return False
    return Path(source).parts[0] not in {path.name for path in Path().iterdir()}


def download(source: str) -> Path:
    """The local folder of a hub repository, at a revision if the source names one, downloaded if it is not in the hub's
    cache yet.

    Raises:
        WeightsError: `huggingface_hub` is not installed, there is no connection, or no such repository or revision, or
            it has pickles only.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise WeightsError(f"{source!r} needs the package huggingface_hub, which is not installed.") from None
    try:
        name, _, revision = source.partition("@")
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # the library also raises its HTTP client's exceptions
        first = str(error).strip().split("\n")[0]
        raise WeightsError(f"{source!r} could not be downloaded from the Hugging Face hub: {first}") from None
    if not any(folder.glob("*.safetensors")):
        hints = ", ".join(published.safetensors for published in PUBLISHED.values() if published.safetensors)
        raise WeightsError(
            f"The hub's {source!r} has no safetensors files, and pickles are not downloaded; take a converted "
            f"repository ({hints})."
        )
    return folder


def find_local(source: str | Path) -> Path:
    """The path itself, existing or not; for a hub id, unless such a path exists, the downloaded folder."""
    path = require_name(source)
    return download(str(source)) if not path.exists() and is_hub_id(str(source)) else path
