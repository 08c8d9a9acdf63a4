"""Images with captions, as pixels or as codes: what models are trained on and compared with."""
