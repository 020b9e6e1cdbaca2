"""TorchServe's config.properties: read as Java reads it, checked, and completed with defaults."""
