"""Parts of a sequence: documents in a row, spans on a rank."""
