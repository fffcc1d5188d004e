"""`merge`: adapters added to a base model. The plan, its steps, and the report."""
