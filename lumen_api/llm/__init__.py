"""The model proxy: may a call run, who answers it, and what it has cost."""
