"""What a checkpoint folder holds, from its small files and the headers of its weights."""

import dataclasses
import math
import re
from pathlib import Path

from ssd_jax.backbones import PUBLISHED
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.models.vq_models import AnyVQConfig, abstract_vq
from ssd_jax.weights.load import find_vq_weights, read_config
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.names import find_naming, find_sources, ignored_names
from ssd_jax.weights.store import Store, WeightsError, find_weights, opened
from ssd_jax.weights.vq_names import ELSEWHERE, find_vq_sources, is_vq_name, local_name


@dataclasses.dataclass(frozen=True)
class Found:
    """A folder whose config.json can be read, and whose weights have headers that can be.

    Attributes:
        folder: where it is.
        config, vq: what config.json says of backbone and image tokenizer.
        weights: the backbone's tensors.
        used: names of those that the backbone is read from.
        missing: names of those that it should be, and that are not there.
        unknown: names of tensors that nothing explains; loading refuses them.
        vq_weights: the image tokenizer's tensors, which may be the same; None: there is none here.
        vq_used: how many of them it is read from.
        vq_fault: what is wrong with them, a sentence; "" is nothing.
    """

    folder: Path
    config: ModelConfig
    vq: AnyVQConfig
    weights: Store
    used: frozenset[str]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    vq_weights: Store | None
    vq_used: int
    vq_fault: str

    @property
    def name(self) -> str:
        """The folder's own name, without where it is."""
        return self.folder.resolve().name

    @property
    def published(self) -> bool:
        """Whether it is a model that others published, and transformers has a class for."""
        return self.config.architecture in PUBLISHED

    @property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files: the folder's own, and those of an image tokenizer that lies elsewhere."""
        elsewhere = self.vq_weights.tensors.values() if self.vq_weights else ()
        return tuple(sorted({*self.folder.glob("*.safetensors"), *(tensor.path for tensor in elsewhere)}))

    def numbers(self, layers: int | None = None) -> int:
        """How many numbers the backbone's files hold, all tensors included, of the first `layers` layers alone."""
        left_out = set() if layers is None else self._behind(layers)
        return sum(math.prod(tensor.shape) for name, tensor in self.weights.tensors.items() if name not in left_out)

    def _behind(self, layers: int) -> set[str]:
        """Names of tensors of the layers from number `layers` on."""
        blocks = find_naming(self.config, self.weights.tensors).blocks if self.published else "block_"
        numbered = re.compile(re.escape(blocks) + r"(\d+)\.")
        matches = {name: numbered.match(name) for name in self.weights.tensors}
        return {name for name, match in matches.items() if match and int(match[1]) >= layers}


def inspect(folder: Path, vq_weights: Path | None = None) -> Found:
    """Looks into a folder; `vq_weights` is the image tokenizer's file or folder, if it is another.

    Raises:
        UserError: a file is missing, damaged or a pickle, or of no known model.
    """
    config, vq = read_config(folder)
    store = opened(find_weights(folder))
    names = store.tensors.keys()
    parameters = flatten(abstract_backbone(config)).keys()
    ours = config.architecture not in PUBLISHED or "embedding" in names
    wanted = parameters if ours else {source.name for source in find_sources(config, parameters, names).values()}
    ignored = "" if ours else ignored_names(config)
    unknown = sorted(name for name in names - wanted if not re.fullmatch(ignored, name))
    vq_store, vq_used, fault = _tokenizer(find_vq_weights(vq_weights or folder, config.architecture), config, vq)
    missing, used = tuple(sorted(wanted - names)), frozenset(wanted & names)
    return Found(Path(folder), config, vq, store, used, missing, tuple(unknown), vq_store, vq_used, fault)


def _tokenizer(path: Path, config: ModelConfig, vq: AnyVQConfig) -> tuple[Store | None, int, str]:
    """The image tokenizer's tensors, how many of them are used, and what is wrong with them."""
    store, like = opened(path), abstract_vq(vq)
    shapes = {name: tensor.shape for name, tensor in store.tensors.items()}
    if config.architecture not in PUBLISHED or "codebook" in shapes:
        missing = sorted(flatten(like).keys() - shapes.keys())
        return store, len(shapes), f"tensor {missing[0]!r} is missing." if missing else ""
    try:
        return store, len(find_vq_sources(config.architecture, like, shapes)), ""
    except WeightsError as error:
        absent = ELSEWHERE in str(error)  # nothing is wrong, it is only not here
        return None if absent else store, sum(map(is_vq_name, shapes)), "" if absent else str(error)


def tokenizer_places(found: Found) -> dict[str, list[str]]:
    """name without prefix -> [file, name in it] of the image tokenizer's tensors; empty if there is none."""
    tensors = found.vq_weights.tensors if found.vq_weights else {}
    return {local_name(name): [str(x.path.resolve()), name] for name, x in tensors.items() if is_vq_name(name)}
