"""Files of what is trained beside a backbone, draft heads or a vertical branch; the header holds the config and the
backbone's fingerprint."""

import dataclasses
import json
from pathlib import Path
from typing import Generic, TypeVar

from ssd_jax.files import parse_json, require_name
from ssd_jax.models.config import BranchConfig, HeadsConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.weights.load import FORMAT, check_format, fingerprint, read_metadata
from ssd_jax.weights.store import WeightsError, is_there

Config = TypeVar("Config", HeadsConfig, BranchConfig)


@dataclasses.dataclass(frozen=True)
class PartFile(Generic[Config]):
    """A kind of such files.

    Attributes:
        name: of the file in a checkpoint's folder.
        key: of the header's metadata: JSON with `format`, `config` and `backbone`, the fingerprint of that file.
        config: the class of the config.
        what: what it holds, for messages.
    """

    name: str
    key: str
    config: type[Config]
    what: str

    def find(self, path: Path) -> Path:
        """The path itself, or the file in that folder, which need not exist."""
        return path / self.name if require_name(path).is_dir() else path

    def choose(self, given: Path | None, folder: Path | None) -> Path | None:
        """The file that is `given`, itself, by its folder, or by a bare name, as "published" for a checkpoint folder's
        heads-published.safetensors. None given: that in a checkpoint's folder, or None if there is none."""
        if given is not None:
            if folder is not None and len(given.parts) == 1 and not given.exists():
                named = folder / self.name.replace(".", f"-{given}.")
                if is_there(named):
                    return named
                if others := sorted(path.stem.split("-", 1)[1] for path in folder.glob(self.name.replace(".", "-*."))):
                    raise WeightsError(f"{given} does not exist; by name there is {', '.join(others)}.")
            return self.find(given)
        path = None if folder is None else self.find(folder)
        return path if path is not None and is_there(path) else None

    def files(self, folder: Path) -> list[Path]:
        """All files of this kind in a checkpoint's folder, with and without a name of their own."""
        return sorted(folder.glob(self.name.replace(".", "*.")))

    def read_config(self, path: Path, backbone_path: Path) -> Config:
        """The config of a file; raises `WeightsError` unless it was trained on this backbone file."""
        config, trained_on = self.describe(path)
        if trained_on != fingerprint(backbone_path):
            raise WeightsError(f"{path}: it was trained on another backbone than {backbone_path}.")
        return config

    def describe(self, path: Path) -> tuple[Config, str]:
        """The config of a file and the fingerprint of its backbone, read from the header."""
        metadata = read_metadata(path)
        if self.key not in metadata:
            raise WeightsError(f"{path}: metadata {self.key!r} is missing, so this is no file of {self.what}.")
        try:
            values = parse_json(metadata[self.key])
            found, trained_on = values["config"], values["backbone"]
        except (ValueError, KeyError, TypeError):
            raise WeightsError(f"{path}: metadata {self.key!r} is not JSON with 'config' and 'backbone'.") from None
        check_format(path, values)
        config = from_dict(self.config, found, f"{path}: {self.key}")
        if isinstance(config, HeadsConfig) and not config.offsets:
            raise WeightsError(f"{path}: {self.key} lists no draft heads.")
        return config, trained_on

    def metadata(self, config: Config, backbone_path: Path) -> dict[str, str]:
        """The metadata of a file: its config and the fingerprint of the backbone file it was trained on."""
        values = {"format": FORMAT, "config": dataclasses.asdict(config), "backbone": fingerprint(backbone_path)}
        return {self.key: json.dumps(values)}


HEADS_FILE = PartFile("heads.safetensors", "heads", HeadsConfig, "draft heads")
BRANCH_FILE = PartFile("branch.safetensors", "branch", BranchConfig, "a vertical branch")
