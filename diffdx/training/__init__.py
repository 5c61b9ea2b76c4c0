"""Fitting a class-conditional diffusion model: data order, loop, averaging, checkpoints."""
