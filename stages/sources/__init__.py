"""Where labelled images come from: one module for each source, and one table of them."""
