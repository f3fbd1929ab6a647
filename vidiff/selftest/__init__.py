"""What works on a machine, and how fast: checks that run the library's own code, each in a process of its own."""
