"""Mathematics of diffusion: schedule, process, weighting, loss, guidance, samplers.

No networks and no files here.
"""
