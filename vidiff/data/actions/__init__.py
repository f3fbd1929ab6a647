"""Actions: what was done between the frames of clips, as it lies beside them and as a model is told it."""
