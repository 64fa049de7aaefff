"""Local and remote files: listing, reading, atomic writing."""
