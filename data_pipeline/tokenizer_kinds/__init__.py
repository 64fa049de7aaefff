"""Implementations of the tokenizers that `data_pipeline.tokenizer` loads."""
