"""A page on which a run that learned actions is played, frame by frame, under the keys of a keyboard."""
