"""What `doctor` looks at: the machine, the build, the model, the ports, and the configuration."""
