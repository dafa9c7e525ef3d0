"""How good the pictures are: distances to real pictures, agreement with prompts, diversity, defects, time and memory."""
