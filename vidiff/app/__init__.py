"""A page on which a trained run is asked for clips: generate, extend, inpaint, animate."""
