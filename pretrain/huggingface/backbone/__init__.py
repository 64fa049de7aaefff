"""Hidden states under transformers' interface: base class, padding and documents, cache, model."""
