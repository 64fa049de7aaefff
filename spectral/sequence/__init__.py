"""The sequence as layers see it: documents in a row, spans on a rank."""
