"""The training loop and what makes it survive: checkpoints, processes, averages, precision, guards."""
