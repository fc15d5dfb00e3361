"""Fine-tuning: how a run starts, its phases, how it resumes, and the files that it writes."""
