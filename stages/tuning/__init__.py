"""The organs of the last stage: what a run starts from, its phases, checkpoints and pictures."""
