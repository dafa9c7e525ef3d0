"""How good pictures are: distance to real ones, agreement with prompts, diversity, defects, time and memory."""
