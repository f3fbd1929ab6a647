"""The commands. Each file of tools/ calls one of them."""
