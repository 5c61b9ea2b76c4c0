"""Networks behind one call, `v_hat = denoiser(z_t, logsnr, y)`."""
