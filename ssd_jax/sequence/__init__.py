"""Where tokens sit in the sequence, and who sees whom."""
