"""RetrievalService: finds chunks across several vector stores, among those that the caller may read."""
