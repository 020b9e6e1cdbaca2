"""Load tests: Locust's users, reports and charts, around a served model."""
