"""What make runs beside the service."""
