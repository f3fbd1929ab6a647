"""The latent cache: every clip encoded once, in shards that many processes write and all read."""
