"""Exchange with other programs: importing arrays and tables, exporting tables and metadata."""
