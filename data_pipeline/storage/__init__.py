"""Local and remote files: listing, opening, atomic writing."""
