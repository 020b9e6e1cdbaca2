"""From the body of a request to its instances, and from their outputs to a response."""
