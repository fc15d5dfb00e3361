"""Sources of labelled images: one module for each source, and the table of sources."""
