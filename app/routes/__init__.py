"""Routes: parse, one call, answer."""
