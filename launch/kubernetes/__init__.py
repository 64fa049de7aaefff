"""Kubernetes: manifests as pure functions, their checks, and the commands that apply them."""
