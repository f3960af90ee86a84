"""A file a family of the contract."""
