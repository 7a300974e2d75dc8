"""Networks from elsewhere, made models of this library."""
