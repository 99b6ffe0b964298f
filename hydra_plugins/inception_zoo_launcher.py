"""Our launcher, for Hydra, which looks for plugins in the namespace package `hydra_plugins` only."""

from inception_zoo.runs import launchers


class RayLauncher(launchers.RayLauncher):
    """See `inception_zoo.runs.launchers`."""
