"""What happens in which order: Prefect flows, the command line, the configuration."""
