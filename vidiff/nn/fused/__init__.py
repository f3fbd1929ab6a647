"""What moves most bytes of a forward pass, each in one kernel on a GPU: see `vidiff.nn.fused.ops`."""
