"""Tasks with labels: spectral classifiers against Transformers and TF-IDF."""
