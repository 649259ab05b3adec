"""QueryService: the front door, which has retrieval find passages and generation answer from them."""
