"""What is trained: diffusion, variational bound, autoencoder, classifier; tasks and weightings."""
