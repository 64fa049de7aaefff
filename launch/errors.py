"""Exception of the launchers."""


class LaunchError(ValueError):
    """Run that cannot be launched as configured.

    The message names the key, file or program, the value found and the value expected.
    """
