"""Lays out the page, and connects it with the drawing."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ssd_jax.demo.drawing import KEPT, Shown, Wish, draw, require
from ssd_jax.errors import UserError
from ssd_jax.pipeline.opening import RANDOM_NOTE, is_random
from ssd_jax.pipeline.pipeline import Pipeline

NONE = "(none)"
"""In the place of the second decoder: only one draws."""

WAITING = 16
"""The most drawings that wait; one is drawn at a time."""

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
"""With fonts of the reader's machine; gradio's own themes load theirs from the internet."""


def page(pipe: Pipeline, prompts: Sequence[str], folder: Path) -> gr.Blocks:
    """The page of a model.

    Args:
        pipe: the model.
        prompts: examples; the first is there at the start.
        folder: where the images' files are written.
    """
    decoders = pipe.decoders()
    with gr.Blocks(title="ssd_jax", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown(_heading(pipe))
        with gr.Row():
            prompt = gr.Textbox(prompts[0], label="Prompt", lines=1, scale=4)
            button = gr.Button("Draw", variant="primary", scale=1)
        with gr.Row():
            first, second = (
                gr.Dropdown(choices, value=value, label=label, allow_custom_value=True, info=info)
                for choices, value, label, info in (
                    (decoders, "ar", "Decoder", "or one with options, as SSD(rounds=0)"),
                    ([NONE, *decoders], _other(decoders), "Beside it", "a second decoder, same prompt and seed"),
                )
            )
            seed = gr.Number(0, label="Seed", precision=0, info="same seed, same image")
            scale = gr.Number(pipe.config.cfg_scale, label="Guidance", info="1 is none")
        with gr.Accordion("More", open=False), gr.Row():
            temperature = gr.Number(1.0, label="Temperature", info="0 takes the most likely code")
            top_k = gr.Number(pipe.config.top_k, label="Top-k", precision=0, info="0 keeps all codes")
            negative = gr.Textbox("", label="Negative prompt", info="what guidance leads away from")
            size = gr.Textbox("", label="Size", info="such as 512x768; empty: the model's own")
        shown = []
        with gr.Row():
            for _ in ("the decoder's", "the second one's"):
                with gr.Column():
                    shown += _places()
        inputs = [prompt, first, second, seed, scale, temperature, top_k, negative, size]

        def drawn(*values: Any) -> Iterator[list[Any]]:
            try:
                yield from _both(pipe, folder, *values)
            except UserError as error:
                raise gr.Error(str(error), duration=None, print_exception=False) from None

        gr.on(
            [button.click, prompt.submit],
            drawn,
            inputs,
            shown,
            api_name="draw",
            concurrency_limit=1,
            trigger_mode="once",
        )
        gr.Examples([[text] for text in prompts], [prompt], label="Prompts to try", examples_per_page=16)
    blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    return blocks


def _other(decoders: Sequence[str]) -> str:
    """The decoder that is beside `ar` at the start: the first of these that the model can run."""
    return next((name for name in ("ssd", "jacobi-above") if name in decoders), NONE)


def _heading(pipe: Pipeline) -> str:
    name, dtype = Path(pipe.origin.name).name, pipe.numerics()["dtype"]
    text = f"# ssd_jax\n`{name}`, {pipe.config.architecture}, {dtype}"
    return f"{text}. {RANDOM_NOTE}" if is_random(pipe) else text


def _places() -> list[Any]:
    """Where a decoder's results are shown, in the order of `Shown`'s fields."""
    look = dict(show_label=False, interactive=False, buttons=[])
    status, image = gr.Markdown(), gr.Image(format="png", **look)
    gr.Markdown("How it came about:")
    animation = gr.Image(**look)
    gr.Markdown("The pass in which each token became final:")
    passes = gr.Image(format="png", **look)
    return [status, image, animation, passes, gr.Files(label="To keep", interactive=False)]


def _both(
    pipe: Pipeline,
    folder: Path,
    prompt: str,
    first: str,
    second: str,
    seed: int,
    scale: float,
    temperature: float,
    top_k: int,
    negative: str,
    size: str,
) -> Iterator[list[Any]]:
    """Draws with one decoder, then with the other; what the page shows, each time."""
    options = dict(seed=seed, temperature=1.0 if temperature is None else temperature)
    options |= dict(cfg_scale=pipe.config.cfg_scale if scale is None else scale)
    options |= dict(top_k=pipe.config.top_k if top_k is None else top_k)
    options |= dict(negative_prompt=negative or None, size=size.strip() or None)
    names = [name for name in (first, second) if name and name != NONE]
    if not names:
        raise UserError("Choose a decoder.")
    wishes, columns = [Wish(prompt, name, options) for name in names], [Shown(""), Shown("")]
    for wish in wishes:  # before the first is drawn
        require(pipe, wish)
    for column, wish in enumerate(wishes):
        for columns[column] in draw(pipe, wish, folder):
            yield [value for each in columns for value in _values(each)]


def _values(shown: Shown) -> list[Any]:
    return [shown.status, shown.image, shown.animation, shown.passes, shown.files]
