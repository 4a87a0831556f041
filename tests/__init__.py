"""The service's claims, each on a real PostgreSQL, Valkey and SMTP server."""
