"""How truly a world obeys: the model and the environment go on from the same frames, under the same actions."""
