"""The service: turns HTTP into one call of the library."""
