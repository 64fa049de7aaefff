"""Raw text to an exactly resumable stream of packed token windows."""
