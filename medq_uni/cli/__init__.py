"""The ``medq`` command."""
