"""The paper's pipelines, tiny and with random weights: the same evaluation, its baselines, and an upscaler."""

import numpy as np
import pytest
import torch

import entropylab
from entropylab.figures.measuring import Source
from entropylab.figures.tables import TABLES, measured
from entropylab.quality.methods import Resized, through_upscaler
from tests.zoo import families

PROMPTS = ["a red car", "a blue house"]
