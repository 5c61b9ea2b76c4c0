"""Stable Diffusion 1.x and 2.x behind the one denoiser call: latents, prompts as classes.

checkpoint   find and check a diffusers folder      prompts    texts of the classes, embedded
adopt        such a folder -> a `DiffusionModel`    self_test  is its prediction what it says?
denoiser     the network's call                     latents    the autoencoder as coordinates
"""
