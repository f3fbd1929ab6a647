"""Games and simulators, by Gymnasium: their clips, with what was done and what was so at each frame."""
