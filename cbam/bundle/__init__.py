"""One answer as one file: the photo, every map, the models, the question, and hashes to check."""
