"""The ``groundwire`` command. Modules here stay light: what a command needs is imported when it runs."""
