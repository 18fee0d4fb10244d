"""How good a renderer is: metrics on held-out views, tables, and the report page."""
