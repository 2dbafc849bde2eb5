"""The checks of `doctor`: machine, build, model, ports, and configuration."""
