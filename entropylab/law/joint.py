"""What was here moved to `entropylab.law.averages`; what still imports it from here is being rewritten."""

from .averages import image_part, image_rows

__all__ = ["image_part", "image_rows"]
