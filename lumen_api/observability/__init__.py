"""What the process says about itself: never anything about a person."""
