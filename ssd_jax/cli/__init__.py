"""What is run from a command line."""
