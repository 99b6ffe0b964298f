"""The Hydra config: rules, allow-list of targets, overrides, error messages, every patch of Hydra."""
