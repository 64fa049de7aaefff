"""The one exception that users of the launchers meet."""


class LaunchError(ValueError):
    """A run that cannot be launched as asked.

    The message names the key, file or program, what was found and what was expected.
    """
