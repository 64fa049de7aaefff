"""Figures of a run's steps: utilisation in each, time, memory, norms and spectra in some."""
