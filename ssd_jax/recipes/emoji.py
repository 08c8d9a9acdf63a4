"""Trains the bundled model in three stages and exports it.

`<workdir>/export` becomes a complete checkpoint: config.json, vq.safetensors, model.safetensors, heads.safetensors with
its README.md, and tokenizer.json. Every stage reads the exports of the earlier ones, so it trains on exactly what users
get. The stage "flash" adds branch.safetensors, a vertical branch, and makes a second checkpoint,
`<workdir>/flash-export`, whose backbone was trained together with the branch.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.backbones.emoji import EmojiPrompts
from ssd_jax.data import emoji, emoji_build
from ssd_jax.data.captioned_codes import CaptionedCodes
from ssd_jax.data.image_codes import encode_images
from ssd_jax.decode.ar import AR
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.engine import cache_spec, decode, make_cache
from ssd_jax.decode.flash import Flash
from ssd_jax.decode.model_verifier import Draw
from ssd_jax.errors import UserError
from ssd_jax.eval.gallery import Gallery
from ssd_jax.eval.recognition import recognition
from ssd_jax.files import replacing
from ssd_jax.models.branch import init_branch
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.forked import Forked
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.matmul import PRODUCTS
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.models.vq import VQModel, to_uint8
from ssd_jax.models.vq_models import abstract_vq
from ssd_jax.pipeline.loading import load
from ssd_jax.pipeline.request import sampler_of
from ssd_jax.prompts import word_tokenizer
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.recipes.emoji_report import nll_report, training_minutes, vq_report, write_report
from ssd_jax.recipes.emoji_spec import FLASH, EmojiSpec
from ssd_jax.sampling.noise import image_keys
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.backbone import backbone_task
from ssd_jax.training.branch import Forking, branch_task
from ssd_jax.training.head_training import EXPORT_DTYPE, Frozen, digest, train_draft_heads
from ssd_jax.training.loop import fit
from ssd_jax.training.metrics import require_plots
from ssd_jax.training.spec import BranchSpec
from ssd_jax.training.tokenizer import tokenizer_task
from ssd_jax.viz import grid as image_grid
from ssd_jax.weights.export import remove_misfits, write_config, write_tensors
from ssd_jax.weights.load import FORMAT, fingerprint
from ssd_jax.weights.part_file import BRANCH_FILE
from ssd_jax.weights.tensors import read_tensors


def run(spec: EmojiSpec) -> Path:
    """Trains the stages of the spec; returns the export folder.

    Raises:
        UserError: missing data or packages, or an earlier stage without an export.
    """
    require_plots()
    try:
        spec.export.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {spec.workdir} cannot be written to: {error.strerror}.") from None
    data = open_data(spec)
    if "tokenizer" in spec.stages:
        _train_tokenizer(spec, data)
    if {"backbone", "heads", FLASH} & set(spec.stages):
        encoded = Encoded.read(spec, data)
        if "backbone" in spec.stages:
            _train_backbone(spec, encoded)
        if "heads" in spec.stages:
            _train_heads(spec, encoded)
        if FLASH in spec.stages:
            return _train_flash(spec, encoded)
    return spec.export


def open_data(spec: EmojiSpec) -> emoji.EmojiData:
    """Opens the images in `spec.data`, and builds them from the installed packages if they do not exist."""
    if not (spec.data / "index.json").exists():
        try:
            emoji_build.build(spec.data, styles=spec.styles, limit=spec.limit or None)
        except (ImportError, ValueError, OSError) as error:
            raise UserError(str(error)) from None
    data = emoji.load(spec.data)
    if others := sorted(set(data.styles) - set(spec.styles)):
        raise UserError(
            f"{spec.data} has images of the style {others[0]}, which config.styles leaves out; choose another "
            "config.data or remove that folder."
        )
    return data


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The inputs that the stages after the tokenizer share.

    Attributes:
        model: the backbone's config.
        vq_params: the exported tokenizer.
        prompts: caption -> ids.
        source: images as codes with their captions.
    """

    model: ModelConfig
    vq_params: Any
    prompts: EmojiPrompts
    source: CaptionedCodes

    @classmethod
    def read(cls, spec: EmojiSpec, data: emoji.EmojiData) -> "Encoded":
        """Reads the exported tokenizer, and encodes the images if they are not encoded yet."""
        path = needed(spec.export / "vq.safetensors", "tokenizer")
        params = read_tensors(path, abstract_vq(spec.vq), jnp.float32)
        words = word_tokenizer(data.captions[i] for i in data.indices("train"))
        model = spec.backbone_config(words.get_vocab_size())
        codes = encode_images(spec.vq, params, data.images, spec.workdir / f"codes-{fingerprint(path)[:12]}.npy")
        prompts = EmojiPrompts(words, model)
        return cls(model, params, prompts, CaptionedCodes(data, codes, prompts, model.pad_id, model.unk_id))


def _train_tokenizer(spec: EmojiSpec, data: emoji.EmojiData) -> None:
    task = tokenizer_task(spec.vq, spec.tokenizer, spec.seed, data)
    origin = {"vq": dataclasses.asdict(spec.vq), "data": len(data)}
    params = fit(task, spec.tokenizer, spec.seed, spec.workdir, origin)
    write_tensors(spec.export / "vq.safetensors", {"params": params["params"]}, EXPORT_DTYPE)


def _train_backbone(spec: EmojiSpec, encoded: Encoded) -> None:
    vectors = np.asarray(VQModel(spec.vq).apply(encoded.vq_params, method="code_vectors"))
    draw = painter(spec, encoded, AR(), lambda params: LoadedModel(params, encoded.model))
    model, source = encoded.model, encoded.source
    origin = {
        "format": FORMAT,
        "model": dataclasses.asdict(model),
        "tokenizer": fingerprint(spec.export / "vq.safetensors"),
        "data": len(source.data),
    }
    task = backbone_task("backbone", model, spec.backbone, spec.seed, source, vectors, draw)
    params = fit(task, spec.backbone, spec.seed, spec.workdir, origin)
    for number, name in enumerate(spec.continuations, 1):
        origin, seed = {**origin, "start": digest(params)}, (spec.seed + number) % 2**32  # other batches
        task = backbone_task(name, model, spec.continued, seed, source, vectors, draw, params)
        params = fit(task, spec.continued, seed, spec.workdir, origin)
    write_config(spec.export, model, spec.vq)
    with replacing(spec.export / "tokenizer.json") as temporary:
        encoded.prompts.save(temporary)
    weights = spec.export / "model.safetensors"
    write_tensors(weights, params, EXPORT_DTYPE)
    remove_misfits(weights)


def _train_heads(spec: EmojiSpec, encoded: Encoded) -> None:
    weights, model, source = needed(spec.export / "model.safetensors", "backbone"), encoded.model, encoded.source
    params = read_tensors(weights, abstract_backbone(model), jnp.float32)
    frozen = Frozen(LoadedModel(params, model), Grid(model.rows, model.cols), weights)
    heads = train_draft_heads(frozen, source, spec.heads, spec.workdir, {})
    limit, batch = spec.heads.report_images, spec.heads.smooth_l1.batch
    write_report(
        spec.workdir / "report",
        nll_report(model, params, source, limit, batch),
        vq_report(spec.vq, encoded.vq_params, source, limit, batch),
        heads,
        training_minutes(spec.workdir, spec.parts),
        *_recognition(spec),
    )


def _train_flash(spec: EmojiSpec, encoded: Encoded) -> Path:
    path, model, layers = needed(spec.export / "model.safetensors", "backbone"), encoded.model, spec.branch_model
    backbone = read_tensors(path, abstract_backbone(model), jnp.float32)
    params = {"branch": init_branch(model, layers, backbone, jax.random.key(spec.seed))}
    origin = {"backbone": fingerprint(path), "branch": dataclasses.asdict(layers), "data": len(encoded.source.data)}

    def loaded(params: Any) -> LoadedModel:
        return LoadedModel.of(model, params["backbone"], branch=layers, branch_params=params["branch"])

    def export(params: Any, beside: Path) -> None:
        metadata = BRANCH_FILE.metadata(layers, beside)
        write_tensors(beside.with_name(BRANCH_FILE.name), params["branch"], EXPORT_DTYPE, metadata)

    def phase(name: str, stage: BranchSpec, start: Any) -> Any:
        trained, measured = Forked(model, layers, PRODUCTS[stage.matmul]), Forked(model, layers)
        forking = Forking(trained, measured, Grid(model.rows, model.cols))
        task = branch_task(name, forking, stage, spec.seed, encoded.source, backbone, start, draw)
        return fit(task, stage, spec.seed, spec.workdir, {**origin, "start": digest(start)})

    draw, folder = painter(spec, encoded, Flash(), loaded), spec.flash_export
    params = phase("branch", spec.branch, params)
    export(params, path)
    params = phase("flash", spec.flash, {"backbone": backbone, **params})
    write_config(folder, model, spec.vq)
    for name in ("tokenizer.json", "vq.safetensors"):
        with replacing(folder / name) as temporary:
            shutil.copyfile(spec.export / name, temporary)
    write_tensors(folder / path.name, params["backbone"], EXPORT_DTYPE)
    export(params, folder / path.name)
    return folder


def _recognition(spec: EmojiSpec) -> tuple[dict, str]:
    """Shares of the final model's images that are recognised, or the reason why it was not measured."""
    try:
        return recognition(load(spec.export), Gallery.read(spec.data), spec.report_drawn)
    except UserError as error:
        return {}, f"Recognition was not measured: {error}"


def painter(
    spec: EmojiSpec, encoded: Encoded, decoder: Decoder, loaded: Callable[[Any], LoadedModel]
) -> Callable[[Any], np.ndarray]:
    """Returns params -> a grid with an image of each sample prompt, decoded with the model's own guidance; `loaded`
    makes a model from the params."""
    model, texts = encoded.model, spec.sample_prompts
    grid = Grid(model.rows, model.cols)
    frames = [encoded.prompts.frame(text) for text in texts]
    prompts = PromptBatch.stack(frames, [encoded.prompts.frame("")] * len(texts), model.pad_id)
    keys = image_keys(jnp.zeros(len(texts), jnp.uint32), jnp.zeros(len(texts), jnp.uint32))
    sampler = sampler_of(model, model.cfg_scale, temperature=1.0, top_k=0, top_p=None)
    to_pixels = jax.jit(lambda params, codes: to_uint8(VQModel(spec.vq).apply(params, codes, method="decode")))

    def draw(params: Any) -> np.ndarray:
        drawing = loaded(params)
        cache = make_cache(
            cache_spec(model, grid, *prompts.ids.shape, jnp.float32, branch_layers=drawing.branch_layers)
        )
        out = decode(drawing, cache, prompts, Draw(keys, sampler), decoder=decoder, grid=grid)
        pixels = to_pixels(encoded.vq_params, out.tokens.reshape(-1, grid.rows, grid.cols))
        return image_grid(list(np.asarray(pixels)), columns=8)

    return draw


def needed(path: Path, stage: str) -> Path:
    """Returns the path if it exists; else raises a `UserError` that names the stage that makes it."""
    if not path.exists():
        raise UserError(f"{path} does not exist yet; run the stage {stage!r} first.")
    return path
