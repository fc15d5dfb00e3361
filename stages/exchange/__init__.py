"""Features as files of others: arrays and tables come in, tables and metadata go out."""
