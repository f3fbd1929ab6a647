"""From YAML and command line to checked dataclasses, and from those to the parts that they name."""
