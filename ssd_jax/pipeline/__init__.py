"""What users hold: a loaded model that turns prompts into images."""
