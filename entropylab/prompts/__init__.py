"""What pictures are asked for: a list, or captions of a file or data set. Knows neither tensors nor models."""

from .chosen import Prompts, check_list, count_cut, digest, read_prompts

__all__ = ["Prompts", "check_list", "count_cut", "digest", "read_prompts"]
