"""The Ray launcher as a Hydra plugin. Hydra finds plugins only in the namespace package `hydra_plugins`."""

from inception_zoo.runs import launchers


class RayLauncher(launchers.RayLauncher):
    """See `inception_zoo.runs.launchers`."""
