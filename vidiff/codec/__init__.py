"""Video to latent and back: our autoencoder, diffusers' ones, identity; tiles and chunks."""
