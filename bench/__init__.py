"""What makes the published figures. Not a part of the service."""
