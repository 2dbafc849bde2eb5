"""Where models come from: what `--model` accepts, the hub, and what a model file says of itself."""
