"""A trained run, made ready to be passed on, with a page that tells what it is."""
