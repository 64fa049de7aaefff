"""The trainer and the command line: from a run file to a trained, exported model."""
