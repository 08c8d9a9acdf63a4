"""The page: what was found, in lines of text that name no place of this machine."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence

import jax

from ssd_jax.backbones import PUBLISHED
from ssd_jax.check.folder import Found
from ssd_jax.check.hashes import small_files, weight_files
from ssd_jax.check.verdicts import Part, known_ids, unlike_published
from ssd_jax.models.config import UNKNOWN
from ssd_jax.pipeline.free_memory import gigabytes
from ssd_jax.version import VERSION

WIDTH = 17
WORDS = {True: "PASS", False: "FAIL", None: "----"}


def line(name: str, said: str) -> str:
    """A line of the page."""
    return f"{name:<{WIDTH}}{said}"


def found_lines(found: Found, full: bool) -> list[str]:
    """All that is known before anything is computed. `full`: hash whole weight files, not their headers alone.

    Raises:
        UserError: a file cannot be read.
    """
    c, vq = found.config, found.vq
    lines = [f"check of {found.name}", ""]
    lines += [line("versions", versions()), line("machine", machine()), line("family", c.architecture)]
    lines.append(
        line(
            "backbone", f"{c.layers} layers, width {c.width}, mlp {c.mlp_width}, {c.heads} heads, {c.kv_heads} of keys"
        )
    )
    lines.append(line("", f"of {c.head_dim}, vocabulary {c.vocab_size}, {c.visual_size} visual codes"))
    lines.append(line("", f"rope {c.rope_theta:g}, epsilon {c.norm_eps:g}, grid {c.rows} x {c.cols}"))
    lines.append(line("image tokenizer", f"{vq.codebook_size} codes of {vq.code_dim}, {vq.stride} pixels a code"))
    ids = {key: "in no file" if id == UNKNOWN else id for key, id in known_ids(c).items()}
    lines.append(line("special ids", ", ".join(f"{key} {id}" for key, id in ids.items())))
    lines.append(line("", f"visual codes {c.visual_offset} to {c.visual_offset + c.visual_size - 1}"))
    if published := PUBLISHED.get(c.architecture):
        other = unlike_published(c, published.model)
        lines += [line("" if index else "unlike published", said) for index, said in enumerate(other)]
    return [*lines, "", *_tensor_lines(found), "", *_file_lines(found, full)]


def _tensor_lines(found: Found) -> list[str]:
    stored = found.weights.tensors
    kinds = sorted({tensor.kind for tensor in stored.values()})
    size = sum(tensor.stop - tensor.start for tensor in stored.values())
    lines = [line("tensors", f"{len(stored)}, {found.numbers()} numbers in {' and '.join(kinds)}, {gigabytes(size)}")]
    spare = len(stored) - len(found.used)
    lines.append(line("", f"{len(found.used)} read as the backbone, {len(found.missing)} missing"))
    if found.vq_weights is None:
        lines.append(line("", "no image tokenizer; --vq_weights=DIR says where it is"))
    else:
        lines.append(line("", f"{found.vq_used} read as the image tokenizer"))
        spare -= found.vq_used if found.vq_weights.path == found.weights.path else 0
    lines.append(line("", f"{spare} not needed to draw"))
    return lines


def _file_lines(found: Found, full: bool) -> list[str]:
    what = "the file" if full else "its header"
    lines = [line("files", f"SHA-256, the first 16 digits; of weights that of {what}, and bytes")]
    lines += [f"  {digits}  {name}" for name, digits in small_files(found).items()]
    lines += [f"  {digits}  {name}  {size}" for name, size, digits in weight_files(found, full)]
    return lines


def part_lines(parts: Sequence[Part]) -> list[str]:
    """A line for every part."""
    return [f"{WORDS[part.passed]}  {line(part.name, part.said)}" for part in parts]


def verdict(parts: Sequence[Part]) -> str:
    """The last line."""
    failed = [part.name for part in parts if part.passed is False]
    left = [part.name for part in parts if part.passed is None]
    said = f"FAIL: {', '.join(failed)}" if failed else f"PASS: {len(parts) - len(left)} parts"
    return said + (f"; not compared: {', '.join(left)}" if left else "")


def versions() -> str:
    """Of what takes part."""
    found = {"ssd_jax": VERSION, "python": platform.python_version(), "jax": jax.__version__}
    return ", ".join(f"{name} {version}" for name, version in (found | installed()).items())


def installed() -> Mapping[str, str]:
    """Of the two packages that may be missing, without importing them."""
    found = {}
    for name in ("torch", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> str:
    """System, processor's kind and jax's device, without any name that someone gave to them."""
    return f"{platform.system()} {platform.machine()}, jax on {jax.devices()[0].device_kind}"
