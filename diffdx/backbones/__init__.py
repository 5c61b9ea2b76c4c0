"""Networks behind one call, `v_hat = denoiser(z_t, logsnr, y)`."""

from diffdx._torchvision import mend_torchvision

# Before diffusers, which imports torchvision wherever it is installed.
mend_torchvision()
