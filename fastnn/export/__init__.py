"""Models for other libraries, and models of other libraries."""
