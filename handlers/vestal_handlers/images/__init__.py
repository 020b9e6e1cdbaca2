"""Images: limits checked from the header, then bytes to pixels."""
