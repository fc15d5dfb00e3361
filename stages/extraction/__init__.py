"""From frozen bases to rows: what is missing, the engines, passes over images, clusters."""
