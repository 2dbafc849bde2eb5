"""Model files: the references that `--model` accepts, the hub, and file headers."""
