"""The command `cbam-lens`."""
