"""The paper's pipelines, tiny and with random weights: the same evaluation, its baselines, and an upscaler."""

PROMPTS = ["a red car", "a blue house"]
