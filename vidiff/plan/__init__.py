"""Memory, time and cost of a training, before anything of it is made."""
