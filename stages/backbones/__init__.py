"""The table of frozen bases, the files that hold their weights, and the engines that run them."""
