"""The heart: trials, denoising errors, votes, and the store that keeps every error."""
