"""Load tests of a served model with Locust."""
