"""One stage for each kind of run, and what it needs first: index, codec, latents."""
