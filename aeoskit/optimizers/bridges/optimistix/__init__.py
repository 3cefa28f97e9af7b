"""The bridge to optimistix."""
