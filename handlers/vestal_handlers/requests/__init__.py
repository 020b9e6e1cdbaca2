"""Read the body of a request into instances, and build a response from their predictions."""
