"""Commands to use a model, a module each."""
