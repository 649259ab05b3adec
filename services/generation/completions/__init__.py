"""Completions: from the bytes that a language model's server sends to the text that may be shown. Pure."""
