"""The queue and the one thread where models run."""
