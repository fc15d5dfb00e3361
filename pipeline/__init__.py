"""The command line and params."""
