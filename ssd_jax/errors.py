"""What can be the user's fault."""


class UserError(ValueError):
    """Input that cannot be used. The message is one sentence for the user; entry points print it and exit with 2."""
