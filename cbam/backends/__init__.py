"""Back ends: what runs a trunk."""
