"""Processes that run the tasks of a build: of this machine, or of a Dask cluster."""
