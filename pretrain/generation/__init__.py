"""Text generation and chat."""
