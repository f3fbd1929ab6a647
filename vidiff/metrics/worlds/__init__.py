"""What frames of a world tell: where things are, which way the view turns, and what was done between them."""
