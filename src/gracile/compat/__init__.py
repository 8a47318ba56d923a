"""Foreign interfaces as thin parsers onto gracile: changing the import is the migration."""
