"""Names -> ready models."""
