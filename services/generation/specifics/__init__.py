"""Specifics: the numbers, dates, names and qualifiers of a question, and whether a sentence speaks of the same."""
