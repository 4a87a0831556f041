"""The routes under /v1. A view reads, asks the repository, decides and answers."""
