"""The three stages of the bundled model, one after the other, and the folder they leave behind.

`<workdir>/export` becomes a complete checkpoint: config.json, vq.safetensors, model.safetensors, heads.safetensors with
its README.md, and tokenizer.json. Every stage starts from what the earlier ones exported, so what is trained on is what
users get.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ssd_jax.backbones.emoji import EmojiPrompts
from ssd_jax.decode.ar import AR
from ssd_jax.decode.bound import Draw
from ssd_jax.decode.engine import cache_spec, decode, make_cache
from ssd_jax.errors import UserError, require_one_of, require_whole
from ssd_jax.eval.gallery import Gallery
from ssd_jax.eval.recognition import recognition
from ssd_jax.files import replacing
from ssd_jax.layout import Grid
from ssd_jax.loading import load
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig, from_dict
from ssd_jax.models.heads import abstract_heads
from ssd_jax.models.loaded import LoadedModel
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.models.vq import VQModel, to_float, to_uint8
from ssd_jax.models.vq_models import abstract_vq
from ssd_jax.prompts import SPECIALS, word_tokenizer
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.request import sampler_of
from ssd_jax.sampling import image_keys
from ssd_jax.training import emoji
from ssd_jax.training.backbone import CaptionedCodes, backbone_task
from ssd_jax.training.bands import Setup
from ssd_jax.training.emoji_sources import STYLES
from ssd_jax.training.heads import EXPORT_DTYPE, export_heads, heads_task
from ssd_jax.training.loop import fit
from ssd_jax.training.overlap import digest, overlap_task
from ssd_jax.training.report import heads_report, nll_report, training_minutes, vq_report, write_report
from ssd_jax.training.sound import require_plots, require_stage
from ssd_jax.training.tokenizer import tokenizer_task
from ssd_jax.viz import grid as picture_grid
from ssd_jax.weights.export import heads_metadata, write_config, write_tensors
from ssd_jax.weights.load import FORMAT, fingerprint, read_tensors

STAGES = ("tokenizer", "backbone", "heads")


def run(config: Any) -> Path:
    """Trains the stages that `config.stage` names ("all" or one of `STAGES`); returns the export folder.

    Raises:
        UserError: an unknown stage, data or packages that are missing, an earlier stage that has not been exported.
    """
    check(config)
    wanted = STAGES if config.stage == "all" else (config.stage,)
    workdir = Path(config.workdir)
    try:
        (workdir / "export").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {workdir} cannot be written to: {error.strerror}.") from None
    data = open_data(config)
    if "tokenizer" in wanted:
        task = tokenizer_task(_vq_config(config), config.tokenizer, config.seed, data)
        origin = {"vq": config.vq.to_dict(), "data": len(data)}
        params = fit(task, config.tokenizer, config.seed, workdir, origin)
        write_tensors(workdir / "export" / "vq.safetensors", {"params": params["params"]}, EXPORT_DTYPE)
    if "backbone" in wanted or "heads" in wanted:
        trained = Trained.read(config, data)
        if "backbone" in wanted:
            _train_backbone(config, trained, workdir)
        if "heads" in wanted:
            _train_heads(config, trained, workdir)
    return workdir / "export"


def check(config: Any) -> None:
    """Raises `UserError` for whatever of a config can be seen to be wrong before the first stage begins."""
    require_one_of("stage", config.stage, ("all", *STAGES))
    require_plots()
    for name in ("tokenizer", "backbone", "heads", "overlap"):
        require_stage(name, config[name], least_steps=int(name != "overlap"))
    for name in ("report_images", "report_drawn"):
        require_whole(f"config.{name}", config[name], 1)
    require_whole("config.limit", config.limit, 0)
    for style in config.styles:
        require_one_of("style", style, tuple(STYLES))
    vq = _vq_config(config)
    if emoji.SIZE % vq.stride:
        raise UserError(
            f"config.vq: pictures of {emoji.SIZE} pixels have no whole number of codes of {vq.stride} pixels."
        )
    from_dict(ModelConfig, _model_values(config, vq, len(SPECIALS) + 1), "config.model")
    from_dict(HeadsConfig, config.heads_model.to_dict(), "config.heads_model")
    if config.seed < 0:
        raise UserError(f"config.seed must not be negative, but is {config.seed}.")


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the stages after the tokenizer share.

    Attributes:
        vq, model: the models' configurations.
        vq_params: the exported tokenizer.
        data: pictures and captions.
        codes: int32 [N, R*C], the pictures as the exported tokenizer sees them.
        prompts: caption -> ids.
        export: the export folder.
    """

    vq: VQConfig
    model: ModelConfig
    vq_params: Any
    data: emoji.EmojiData
    codes: np.ndarray
    prompts: EmojiPrompts
    export: Path

    @classmethod
    def read(cls, config: Any, data: emoji.EmojiData) -> "Trained":
        """Reads the exported tokenizer, and encodes the pictures once."""
        export = Path(config.workdir) / "export"
        path = needed(export / "vq.safetensors", "tokenizer")
        vq = _vq_config(config)
        vq_params = read_tensors(path, abstract_vq(vq), jnp.float32)
        tokenizer = word_tokenizer(data.captions[i] for i in data.indices("train"))
        model = from_dict(ModelConfig, _model_values(config, vq, tokenizer.get_vocab_size()), "config.model")
        codes = encode_pictures(vq, vq_params, data, Path(config.workdir) / f"codes-{fingerprint(path)[:12]}.npy")
        return cls(vq, model, vq_params, data, codes, EmojiPrompts(tokenizer, model), export)

    def captioned(self, stage: Any) -> CaptionedCodes:
        """Batches for a stage's config."""
        return CaptionedCodes(self.data, self.codes, self.prompts, stage, self.model.pad_id, self.model.unk_id)

    def backbone(self) -> Any:
        """The exported backbone's parameters, float32."""
        return read_tensors(
            needed(self.export / "model.safetensors", "backbone"), abstract_backbone(self.model), "float32"
        )


def _model_values(config: Any, vq: VQConfig, words: int) -> dict[str, Any]:
    """Fields of the backbone's `ModelConfig` for a vocabulary of so many words and special tokens."""
    sizes = dict(vocab_size=words + vq.codebook_size, visual_offset=words, visual_size=vq.codebook_size)
    rows = emoji.SIZE // vq.stride
    ids = {f"{name.strip('<>')}_id": index for index, name in enumerate(SPECIALS)}
    return {**config.model.to_dict(), **sizes, **ids, "rows": rows, "cols": rows}


def _train_backbone(config: Any, trained: Trained, workdir: Path) -> None:
    draw = painter(trained, list(config.sample_prompts))
    vectors = np.asarray(VQModel(trained.vq).apply(trained.vq_params, method="code_vectors"))
    source = trained.captioned(config.backbone)
    task = backbone_task(trained.model, config.backbone, config.seed, source, vectors, draw)
    origin = {
        "format": FORMAT,
        "model": dataclasses.asdict(trained.model),
        "tokenizer": fingerprint(trained.export / "vq.safetensors"),
        "data": len(trained.data),
    }
    params = fit(task, config.backbone, config.seed, workdir, origin)
    write_config(trained.export, trained.model, trained.vq)
    with replacing(trained.export / "tokenizer.json") as temporary:
        trained.prompts.save(temporary)
    write_tensors(trained.export / "model.safetensors", params, EXPORT_DTYPE)


def _train_heads(config: Any, trained: Trained, workdir: Path) -> None:
    backbone = trained.backbone()
    heads = from_dict(HeadsConfig, config.heads_model.to_dict(), "config.heads_model")
    source = trained.captioned(config.heads)
    setup = Setup(trained.model, heads, Grid(trained.model.rows, trained.model.cols))
    task = heads_task(_with(setup, config.heads), backbone, config.heads, config.seed, source)
    backbone_path = trained.export / "model.safetensors"
    metadata = heads_metadata(heads, backbone_path)
    params = fit(task, config.heads, config.seed, workdir, metadata)
    states = {"Smooth L1": params}
    if config.overlap.steps:
        source = trained.captioned(config.overlap)
        task = overlap_task(_with(setup, config.overlap), backbone, config.overlap, config.seed, source, params)
        params = fit(task, config.overlap, config.seed, workdir, {**metadata, "start": digest(params)})
        states["Smooth L1, then overlap"] = params
    path = trained.export / "heads.safetensors"
    export_heads(path, params, heads, backbone_path)
    # The last state as it is stored.
    states[list(states)[-1]] = read_tensors(path, abstract_heads(heads, trained.model.width), jnp.float32)
    limit, batch = config.report_images, config.heads.batch
    write_report(
        workdir / "report",
        nll_report(trained.model, backbone, source, limit, batch),
        vq_report(trained.vq, trained.vq_params, source, limit, batch),
        heads_report(setup, states, backbone, source, limit, batch),
        training_minutes(workdir, config),
        *_recognition(config, trained.export),
    )


def _recognition(config: Any, export: Path) -> tuple[dict, str]:
    """How many of the finished model's pictures are recognised, or why that was not measured."""
    try:
        return recognition(load(export), Gallery.read(Path(config.data)), config.report_drawn)
    except UserError as error:
        return {}, f"Recognition was not measured: {error}"


def open_data(config: Any) -> emoji.EmojiData:
    """The pictures under `config.data`, drawn from the installed packages if they are not there yet."""
    folder = Path(config.data)
    if not (folder / "index.json").exists():
        try:
            emoji.build(folder, styles=tuple(config.styles), limit=config.limit or None)
        except (ImportError, ValueError, OSError) as error:
            raise UserError(str(error)) from None
    data = emoji.load(folder)
    if others := sorted(set(data.styles) - set(config.styles)):
        raise UserError(
            f"{folder} has pictures of the style {others[0]}, which config.styles leaves out; choose another "
            "config.data or remove that folder."
        )
    return data


def encode_pictures(vq: VQConfig, params: Any, data: emoji.EmojiData, path: Path, batch: int = 64) -> np.ndarray:
    """Codes of all pictures, int32 [N, R*C]; kept in `path`, because they depend on the tokenizer alone."""
    if path.exists():
        codes = np.load(path, allow_pickle=False)
        if len(codes) == len(data):
            return codes
    encode = jax.jit(lambda params, images: VQModel(vq).apply(params, to_float(images), method="encode"))
    codes = []
    for start in tqdm(range(0, len(data), batch), desc="pictures to codes", dynamic_ncols=True):
        images = np.asarray(data.images[start : start + batch])
        full = np.resize(images, (batch, *images.shape[1:]))
        codes.append(np.asarray(encode(params, full)).reshape(batch, -1)[: len(images)])
    codes = np.concatenate(codes)
    with replacing(path) as temporary:
        np.save(temporary, codes)
    return codes


def painter(trained: Trained, texts: list[str]):
    """Returns params -> a sheet of pictures of `texts`, one each, drawn with `ar` at the model's default guidance."""
    model, decoder = trained.model, AR()
    grid = Grid(model.rows, model.cols)
    frames = [trained.prompts.frame(text) for text in texts]
    prompts = PromptBatch.stack(frames, [trained.prompts.frame("")] * len(texts), model.pad_id)
    keys = image_keys(jnp.zeros(len(texts), jnp.uint32), jnp.zeros(len(texts), jnp.uint32))
    sampler = sampler_of(model, model.cfg_scale, temperature=1.0, top_k=0, top_p=None)
    to_pixels = jax.jit(lambda params, codes: to_uint8(VQModel(trained.vq).apply(params, codes, method="decode")))

    def draw(params: Any) -> np.ndarray:
        cache = make_cache(cache_spec(model, grid, *prompts.ids.shape, jnp.float32))
        out = decode(LoadedModel(params, model), cache, prompts, Draw(keys, sampler), decoder=decoder, grid=grid)
        pixels = to_pixels(trained.vq_params, out.tokens.reshape(-1, grid.rows, grid.cols))
        return picture_grid(list(np.asarray(pixels)), columns=8)

    return draw


def needed(path: Path, stage: str) -> Path:
    """The path, or a `UserError` that says which stage makes it."""
    if not path.exists():
        raise UserError(f"{path} does not exist yet; run the stage {stage!r} first.")
    return path


def _with(setup: Setup, stage: Any) -> Setup:
    return dataclasses.replace(setup, matmul=stage.matmul)


def _vq_config(config: Any) -> VQConfig:
    return from_dict(VQConfig, config.vq.to_dict(), "config.vq")
