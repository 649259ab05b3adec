"""How the query domain reaches retrieval and generation."""
