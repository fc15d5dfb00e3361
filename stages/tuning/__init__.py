"""Fine-tuning: what a run starts from, its phases, how it resumes, and what it leaves."""
