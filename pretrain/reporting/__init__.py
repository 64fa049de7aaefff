"""`resonance report`: runs as one page of HTML."""
