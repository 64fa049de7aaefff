"""Submission of runs to clusters, with the package `launch`, which does not know run files."""
