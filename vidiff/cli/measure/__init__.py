"""Commands to measure a model, a module each."""
