"""How monitoring asks its peers."""
