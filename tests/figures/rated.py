"""Ratings as the page saves them."""

import base64
import json


def write(path, scores, rater="one", methods=("original", "sqrt_log"), **changes):
    """A file as the page saves it: ``scores`` are pairs, in the order of ``methods``."""
    key = [{"prompt": "p", "methods": methods, "name": f"{i:04d}"} for i in range(len(scores))]
    found = {
        "format": "entropylab ratings 1", "page": "page", "rater": rater,
        "ratings": [{"pair": i, "left": i % 2, "scores": list(pair)} for i, pair in enumerate(scores)],
        "key": base64.b64encode(json.dumps(key).encode()).decode(),
    }  # fmt: skip
    path.write_text(json.dumps(found | changes), encoding="utf-8")
    return path
