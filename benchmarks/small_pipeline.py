"""The small random pipeline of the package, under the name that benchmarks and tests know."""

from diffdx.paper.small_pipeline import Size as Size
from diffdx.paper.small_pipeline import new_unet as new_unet
from diffdx.paper.small_pipeline import new_vae as new_vae
from diffdx.paper.small_pipeline import random_pipeline as random_pipeline
from diffdx.paper.small_pipeline import save_pipeline as save_pipeline
from diffdx.paper.small_pipeline import tokenizer_of as tokenizer_of
