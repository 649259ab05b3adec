"""The catalog: the truth about collections, documents, versions and who may read them."""
