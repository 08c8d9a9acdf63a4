"""A web page on which a model can be tried: python -m ssd_jax.demo

It is the bundled model unless a flag names another, and only this machine can reach the page.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from ssd_jax.cli import entry
from ssd_jax.cli.drawing import add_model, open_pipeline, use_devices
from ssd_jax.errors import UserError, require_whole

HOST = "127.0.0.1"
"""Only this machine reaches the page; to let others in, put a server with a login in front of it."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself ends with exit code 2 on a malformed one."""
    parser = argparse.ArgumentParser(
        prog="python -m ssd_jax.demo", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="default 7860")
    add_model(parser)
    return parser.parse_args(arguments)


def main() -> None:
    args = parse(sys.argv[1:])
    require_whole("port", args.port, 1, 65535)
    if args.coordinator:
        raise UserError("The page is drawn by one process; leave out --coordinator.")
    try:
        from ssd_jax.demo.page import THEME, page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError('The page needs gradio: pip install "ssd_jax[demo]", in a checkout ".[demo]".') from None
    config = entry.read_config(args.config)
    use_devices(args)
    pipe = open_pipeline(args, config)
    pipe.pictures.params  # noqa: B018 - a damaged file is reported now
    with tempfile.TemporaryDirectory(prefix="ssd_jax-demo-") as folder:
        blocks = page(pipe, list(config.sample_prompts), Path(folder))
        try:
            blocks.launch(
                server_name=HOST, server_port=args.port, share=False, theme=THEME, quiet=True, prevent_thread_lock=True
            )
        except (OSError, ValueError) as error:  # gradio's: no such port, or a proxy before this machine's own address
            why = str(error).strip().partition("\n")[0]
            raise UserError(f"The page cannot be served at port {args.port}; another is --port=N: {why}") from None
        print(f"The page is at http://{HOST}:{args.port}; Ctrl-C ends it.", flush=True)
        blocks.block_thread()
