"""Models that turn text into numbers: sentence embeddings and cross-encoder scores."""
