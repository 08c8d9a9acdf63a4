"""A web page on which a model can be tried, made with gradio: `python -m ssd_jax.demo`."""
