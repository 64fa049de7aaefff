"""Export to Hugging Face: a folder that loads with torch and transformers alone."""
