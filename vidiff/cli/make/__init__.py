"""Commands to make a model, a module each."""
