"""The training loop and its parts: engine, optimizer, schedule, gradient, validation."""
