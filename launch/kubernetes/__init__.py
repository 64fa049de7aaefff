"""Kubernetes: manifests as pure functions, their validation, and the commands that apply them."""
